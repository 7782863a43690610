/* SPDX-License-Identifier: MIT */
/* lmdb_check.h - whether a file is a sound LMDB environment, found out before LMDB maps it.
 *
 * LMDB believes what it reads from its map: a page that contradicts itself is a crash, a page that
 * is missing a SIGBUS. This reads the file from the outside, with pread, and refuses it in one line
 * of text. It knows data version 1, the only one there is, by the structs of the LMDB that it is
 * compiled with, on a machine of the same byte order and word size as the one that wrote the file
 * (others look damaged, and LMDB cannot read them either). */
#ifndef LMDB_CHECK_H
#define LMDB_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a file may consist of. None of its trees may have duplicates, or values in pages of their
 * own: the program writes neither, so either is damage. */
struct lmdb_check_trees {
	const char *const *names; /* all that there may be, at most 32, in the order of reading */
	size_t count;
	size_t required;          /* the first so many must be there */
	size_t whole;             /* the first so many are read whole, whatever the time */
};

/* True if a data file of LMDB begins like this: its first LMDB_BEGINNING bytes. */
enum { LMDB_BEGINNING = 32 };
bool lmdb_begins_file(const void *bytes);

/* Reads the meta pages of the file and everything that the one of that transaction reaches: every
 * page has one place, every tree its pages, keys that ascend and as many entries as it says.
 *
 * path         of data.mdb; it is only read
 * trees        NULL: the meta pages alone, which is what LMDB needs in order to map the file
 * transaction  one that the caller holds open, as others may write; 0: the newest
 * budget_ms    trees beyond the first `whole` are read for so long only (0: to the end), unless the
 *              file is shorter than its meta page says
 *
 * False if anything is wrong, with the reason and the way out in `why`; also false, with nothing
 * said, if the transaction's meta page has been overwritten meanwhile. Any thread. */
bool lmdb_check_file(const char *path, const struct lmdb_check_trees *trees, size_t transaction,
                     int64_t budget_ms, char *why, size_t why_size);

#endif
