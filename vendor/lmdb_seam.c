/* SPDX-License-Identifier: MIT */
/* lmdb_seam.c - LMDB with a few additions; see lmdb_seam.h. Its source is included, not changed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <stdint.h>
#include <sys/random.h>
#include <unistd.h>

/* LMDB tells its processes apart by their pid: it locks that byte of lock.mdb, and writes the pid
 * into the slots of its readers. In containers that share a data directory two processes may have
 * the same pid. Then the second would be refused, or, where it is not, its end would take the slots
 * of the first, whose pages are then overwritten while it reads them. So a process gets a number by
 * chance, above all pids (they end at 2^22): it agrees with processes of other versions, too. */
static pid_t lmdb_own_id(void)
{
	static pid_t id, of; /* first asked for by mdb_env_create, before there are threads */
	uint32_t chance;
	if (of == getpid()) return id; /* a child is another process */
	of = getpid();
	if (getrandom(&chance, sizeof chance, 0) != sizeof chance) return id = of;
	return id = (pid_t)(chance % 0x7f000000u + 0x800000u);
}

#define getpid lmdb_own_id
#include "mdb.c"
#undef getpid

#include "lmdb_check.c"
#include "lmdb_seam.h"

void lmdb_release_pages(MDB_env *env)
{
	while (env->me_dpages) {
		MDB_page *page = env->me_dpages;
		env->me_dpages = page->mp_next;
		free(page);
	}
}

unsigned lmdb_slots(MDB_env *env)
{
	unsigned slots = env->me_txns ? env->me_txns->mti_numreaders : 0;
	return slots < env->me_maxreaders ? slots : env->me_maxreaders; /* another process wrote it */
}

struct lmdb_reader lmdb_slot(MDB_env *env, unsigned slot)
{
	const MDB_reader *r = &env->me_txns->mti_readers[slot];
	struct lmdb_reader reader = {r->mr_pid, r->mr_txnid};
	if (reader.id == env->me_pid || reader.transaction == (txnid_t)-1) reader.id = 0;
	return reader;
}

void lmdb_forget_own(MDB_env *env)
{
	for (int i = 0; env->me_txns && i < env->me_close_readers; i++)
		if (env->me_txns->mti_readers[i].mr_pid == env->me_pid)
			env->me_txns->mti_readers[i].mr_pid = 0;
}

int lmdb_lock_is_sound(MDB_env *env)
{
	return !env->me_txns ||
	       (env->me_txns->mti_magic == MDB_MAGIC && env->me_txns->mti_format == MDB_LOCK_FORMAT);
}

int lmdb_lock_fd(MDB_env *env)
{
	return env->me_lfd;
}

int lmdb_has_address(MDB_env *env, const void *address)
{
	const char *at = address, *map = env->me_map, *lock = (const char *)env->me_txns;
	size_t size = (env->me_maxreaders - 1) * sizeof(MDB_reader) + sizeof(MDB_txninfo);
	return (map && at >= map && at < map + env->me_mapsize) ||
	       (lock && at >= lock && at < lock + size);
}
