/* lmdb_seam.h - what presence needs of LMDB beyond <lmdb.h>. */
#ifndef LMDB_SEAM_H
#define LMDB_SEAM_H

#include <lmdb.h>

/* Frees the pages that LMDB keeps from the largest transaction so far for the next one: megabytes,
 * after the users of a busy second. The writer's thread, with no write transaction open. */
void lmdb_release_pages(MDB_env *);

#endif
