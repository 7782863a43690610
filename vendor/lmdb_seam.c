/* lmdb_seam.c - LMDB with one addition; see lmdb_seam.h. Its source is included, not changed. */
#include "mdb.c"

#include "lmdb_seam.h"

void lmdb_release_pages(MDB_env *env)
{
	while (env->me_dpages) {
		MDB_page *page = env->me_dpages;
		env->me_dpages = page->mp_next;
		free(page);
	}
}
