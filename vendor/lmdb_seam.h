/* SPDX-License-Identifier: MIT */
/* lmdb_seam.h - what presence needs of LMDB beyond <lmdb.h>. */
#ifndef LMDB_SEAM_H
#define LMDB_SEAM_H

#include <lmdb.h>
#include <stddef.h>

/* Frees the pages that LMDB keeps from the largest transaction so far for the next one: megabytes,
 * after the users of a busy second. The writer's thread, with no write transaction open. */
void lmdb_release_pages(MDB_env *);

/* A read transaction of another process, dead or alive. */
struct lmdb_reader {
	int id;             /* 0: none */
	size_t transaction; /* what it reads; no page of it or of a later one is used again meanwhile */
};

/* How many slots for readers were ever used, and what is in one of them. Any thread, while the
 * environment is open. */
unsigned lmdb_slots(MDB_env *);
struct lmdb_reader lmdb_slot(MDB_env *, unsigned slot);

/* Gives the slots of this process back, though its read transactions go on: they may read what is
 * overwritten, so it must end now. May be called by a signal's handler. */
void lmdb_forget_own(MDB_env *);

/* Whether lock.mdb begins as LMDB left it. If not, somebody has written to it, and whoever takes
 * one of its locks may wait for ever. */
int lmdb_lock_is_sound(MDB_env *);

/* The descriptor of lock.mdb. Do not close a second one: the kernel would drop its locks. */
int lmdb_lock_fd(MDB_env *);

/* Whether an address is in the maps of data.mdb and lock.mdb. May be called by a signal's
 * handler. */
int lmdb_has_address(MDB_env *, const void *address);

#endif
