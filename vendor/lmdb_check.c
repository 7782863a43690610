/* SPDX-License-Identifier: MIT */
/* lmdb_check.c - see lmdb_check.h. Included by lmdb_seam.c behind LMDB itself, whose structs and
 * names for what is in a page are private to mdb.c.
 *
 * A tree is walked from the left to the right with a stack of pages, so a damaged depth cannot
 * exhaust the stack of the thread, and one page a level is in memory, so a file of any size can be
 * read. What is read is copied out before it is believed: nothing is mapped. */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>

#include "lmdb_check.h"

/* Bits of md_flags that say how a tree is sorted; the others are the environment's. */
#define TREE_SORT_FLAGS 0x7e
/* Pages at the end of a sound file may be free and never written, but not more than these. */
#define MISSING_PAGES_MAX 65536

/* The trees that have no name; those of lmdb_check_trees have the numbers from 0. */
enum { TREE_FREE = -2, TREE_MAIN = -1 };

/* One check of one file. */
struct check {
	int fd;
	const char *path;
	size_t page_size, file_size;
	MDB_meta meta;
	const struct lmdb_check_trees *known;
	MDB_db trees[32];
	uint32_t found;   /* a bit for every known tree that the main tree names */
	int64_t deadline; /* monotonic ms to stop at; 0: read everything */
	uint8_t *seen;    /* a bit for every page that has its place */
	char *why;
	size_t why_size;
	/* The tree that is being read: */
	int tree;
	bool hurried;       /* the deadline left something out */
	bool last_is_bound; /* the last key came from a branch: the next may be equal */
	size_t entries, last_len;
	uint8_t last[MDB_MAXKEYSIZE];
	MDB_page *pages[CURSOR_STACK]; /* from the root to where the reading is */
	size_t nodes[CURSOR_STACK];    /* the next node of each */
	unsigned level;                /* how many they are */
};

/* Says why the file is refused; false, for the caller to return. */
__attribute__((format(printf, 2, 3))) static bool check_fail(struct check *c, const char *format,
                                                             ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(c->why, c->why_size, format, args);
	va_end(args);
	return false;
}

static bool check_fail_page(struct check *c, const char *what, size_t page)
{
	return check_fail(c, "%s is damaged: page %zu %s; restore a backup", c->path, page, what);
}

static int64_t check_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Marks n pages as used for one thing; false if they are not in the file or used already. That two
 * places lead to one page is how a lost write shows, and how a loop in a tree would. */
static bool check_claim(struct check *c, size_t page, size_t n)
{
	if (page < NUM_METAS || page > c->meta.mm_last_pg || n > c->meta.mm_last_pg + 1 - page)
		return check_fail_page(c, "is referred to but cannot exist", page);
	for (size_t i = page; i < page + n; i++) {
		if (c->seen[i / 8] & 1 << i % 8) return check_fail_page(c, "is used twice", i);
		c->seen[i / 8] |= (uint8_t)(1 << i % 8);
	}
	return true;
}

/* Claims and reads n pages, which the caller frees; NULL if refused. */
static MDB_page *check_read(struct check *c, size_t page, size_t n)
{
	size_t size = n * c->page_size;
	if (!check_claim(c, page, n)) return NULL;
	if ((page + n) * c->page_size > c->file_size) {
		check_fail_page(c, "lies behind the end of the file, which was cut short", page);
		return NULL;
	}
	MDB_page *p = malloc(size);
	errno = EIO; /* of a read that is short */
	if (!p) check_fail(c, "cannot check %s: no memory", c->path);
	else if (pread(c->fd, p, size, (off_t)(page * c->page_size)) != (ssize_t)size)
		check_fail(c, "cannot read %s: %s; check the disk", c->path, strerror(errno));
	else if (p->mp_pgno != page) check_fail_page(c, "holds something else", page);
	else return p;
	free(p);
	return NULL;
}

/* Bytewise, the shorter first: the order of every tree but that of free pages. */
static int check_compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
	int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
	return order ? order : (a_len > b_len) - (a_len < b_len);
}

/* Checks that keys ascend through the whole tree, not only within a page; false, with nothing said,
 * if not. Keys of the free pages' tree are numbers of transactions, and are compared as such. */
static bool check_order(struct check *c, const uint8_t *key, size_t len, bool is_bound)
{
	uint8_t sorted[sizeof(txnid_t)];
	if (!len || len > MDB_MAXKEYSIZE) return false;
	if (c->tree == TREE_FREE) {
		txnid_t transaction;
		if (len != sizeof transaction) return false;
		memcpy(&transaction, key, len);
		for (size_t i = 0; i < len; i++)
			sorted[i] = (uint8_t)(transaction >> 8 * (len - 1 - i));
		key = sorted;
	}
	int order = check_compare(c->last, c->last_len, key, len);
	if (order > 0 || (order == 0 && !c->last_is_bound)) return false;
	memcpy(c->last, key, len);
	c->last_len = len;
	c->last_is_bound = is_bound;
	return true;
}

/* Checks a list of free pages and claims them: a count, then the pages, the largest first. */
static bool check_free_list(struct check *c, const uint8_t *at, size_t size, size_t page)
{
	size_t count, number, last = SIZE_MAX;
	if (size < sizeof count) return check_fail_page(c, "has a bad list of free pages", page);
	memcpy(&count, at, sizeof count);
	if (count > size / sizeof count - 1)
		return check_fail_page(c, "has a bad list of free pages", page);
	for (size_t i = 1; i <= count; i++, last = number) {
		memcpy(&number, at + i * sizeof number, sizeof number);
		if (number >= last) return check_fail_page(c, "has a bad list of free pages", page);
		if (!check_claim(c, number, 1)) return false;
	}
	return true;
}

/* Checks a list of free pages that lies in pages of its own. */
static bool check_overflow(struct check *c, size_t first, size_t size)
{
	size_t need = OVPAGES(size, c->page_size);
	MDB_page *p = check_read(c, first, need);
	if (!p) return false;
	size_t has = p->mp_pages;
	bool ok = (p->mp_flags == P_OVERFLOW && has >= need) ||
	          check_fail_page(c, "holds something else", first);
	if (ok && has > need) ok = check_claim(c, first + need, has - need);
	ok = ok && check_free_list(c, METADATA(p), size, first);
	free(p);
	return ok;
}

/* Keeps the tree that an entry of the main tree describes. */
static bool check_take_tree(struct check *c, const MDB_node *node, const uint8_t *name)
{
	for (size_t i = 0; i < c->known->count; i++) {
		const char *known = c->known->names[i];
		if (strlen(known) != node->mn_ksize || memcmp(known, name, node->mn_ksize)) continue;
		if (node->mn_flags != F_SUBDATA || NODEDSZ(node) != sizeof c->trees[i]) break;
		memcpy(&c->trees[i], name + node->mn_ksize, sizeof c->trees[i]);
		c->found |= (uint32_t)1 << i;
		return true;
	}
	return check_fail(c,
	                  "%s is damaged or was written by another program; restore a backup"
	                  " or choose another --data",
	                  c->path);
}

/* Checks node i of a page. *child is the page below it if the page is a branch. */
static bool check_node(struct check *c, const MDB_page *p, size_t i, size_t *child)
{
	MDB_node node;
	size_t at = p->mp_ptrs[i] + NODESIZE, room = c->page_size - at;
	if (p->mp_ptrs[i] < p->mp_upper || at > c->page_size)
		return check_fail_page(c, "has a bad node", p->mp_pgno);
	const uint8_t *key = (const uint8_t *)p + at, *value;
	memcpy(&node, key - NODESIZE, NODESIZE);
	size_t size = NODEDSZ(&node);
	bool leaf = p->mp_flags == P_LEAF;
	if (node.mn_ksize > room) return check_fail_page(c, "has a bad key", p->mp_pgno);
	/* The first key of a branch stands for everything below it and is never looked at. */
	if ((leaf || i) && !check_order(c, key, node.mn_ksize, !leaf))
		return check_fail_page(c, "has keys out of order", p->mp_pgno);
	value = key + node.mn_ksize;
	room -= node.mn_ksize;
	*child = NODEPGNO(&node);
	if (!leaf) return true;
	c->entries++;
	if (c->tree == TREE_FREE && node.mn_flags == F_BIGDATA && room >= sizeof *child) {
		memcpy(child, value, sizeof *child);
		return check_overflow(c, *child, size);
	}
	if (size > room || (node.mn_flags && c->tree != TREE_MAIN))
		return check_fail_page(c, "has a bad value", p->mp_pgno);
	if (c->tree == TREE_FREE) return check_free_list(c, value, size, p->mp_pgno);
	return c->tree != TREE_MAIN || check_take_tree(c, &node, key);
}

/* Reads a page of a tree of that depth and goes down into it, unless time is up. A branch has two
 * children at least; only that of the free pages' tree, which LMDB changes while it writes, may
 * have one. */
static bool check_descend(struct check *c, size_t page, unsigned depth)
{
	if (c->deadline && c->tree >= (int)c->known->whole && check_now_ms() >= c->deadline) {
		c->hurried = true;
		return true;
	}
	MDB_page *p = check_read(c, page, 1);
	if (!p) return false;
	c->pages[c->level] = p;
	c->nodes[c->level++] = 0;
	bool leaf = c->level == depth;
	size_t least = leaf || c->tree == TREE_FREE ? 1 : 2;
	return (p->mp_flags == (leaf ? P_LEAF : P_BRANCH) && p->mp_lower % 2 == 0 &&
	        p->mp_lower >= PAGEHDRSZ + 2 * least && p->mp_lower <= p->mp_upper &&
	        p->mp_upper <= c->page_size) ||
	       check_fail_page(c, "holds something else", page);
}

/* Checks one tree from its root to its last entry. */
static bool check_tree(struct check *c, int number, const MDB_db *tree)
{
	c->tree = number;
	c->entries = c->last_len = 0;
	c->hurried = false;
	c->last_is_bound = true;
	if ((tree->md_flags & TREE_SORT_FLAGS) != (number == TREE_FREE ? MDB_INTEGERKEY : 0) ||
	    tree->md_depth > CURSOR_STACK || (tree->md_root == P_INVALID) != (tree->md_depth == 0))
		return check_fail(c, "%s is damaged or not presence's own; restore a backup", c->path);
	bool ok = !tree->md_depth || check_descend(c, tree->md_root, tree->md_depth);
	while (ok && c->level) {
		MDB_page *p = c->pages[c->level - 1];
		size_t i = c->nodes[c->level - 1]++, child = 0;
		if (i == (p->mp_lower - PAGEHDRSZ) / sizeof *p->mp_ptrs) {
			free(p);
			c->level--;
		} else {
			ok = check_node(c, p, i, &child) &&
			     (p->mp_flags == P_LEAF || check_descend(c, child, tree->md_depth));
		}
	}
	while (c->level) free(c->pages[--c->level]);
	if (ok && !c->hurried && c->entries != tree->md_entries)
		return check_fail(c, "%s is damaged: %zu entries where %zu should be; restore a backup",
		                  c->path, c->entries, tree->md_entries);
	return ok;
}

bool lmdb_begins_file(const void *bytes)
{
	MDB_page head;
	MDB_meta meta;
	size_t magic = PAGEHDRSZ + offsetof(MDB_meta, mm_magic);
	_Static_assert(PAGEHDRSZ + offsetof(MDB_meta, mm_magic) + sizeof meta.mm_magic <= LMDB_BEGINNING,
	               "it is in the beginning");
	memcpy(&head, bytes, PAGEHDRSZ);
	memcpy(&meta.mm_magic, (const char *)bytes + magic, sizeof meta.mm_magic);
	return (head.mp_flags & P_META) && meta.mm_magic == MDB_MAGIC;
}

/* Reads one of the two meta pages; false if it is none. */
static bool check_read_meta(struct check *c, size_t at, MDB_meta *meta)
{
	MDB_page head;
	uint8_t bytes[sizeof head + sizeof *meta];
	if (pread(c->fd, bytes, sizeof bytes, (off_t)at) != (ssize_t)sizeof bytes) return false;
	memcpy(&head, bytes, PAGEHDRSZ);
	memcpy(meta, bytes + PAGEHDRSZ, sizeof *meta);
	size_t size = meta->mm_psize;
	return (head.mp_flags & P_META) && meta->mm_magic == MDB_MAGIC &&
	       meta->mm_version == MDB_DATA_VERSION && size >= 256 && size <= MAX_PAGESIZE &&
	       !(size & (size - 1));
}

/* Reads the meta pages and keeps the one of that transaction (0: the newest); false, with nothing
 * said, if it has been overwritten. After it LMDB may map the file, and the numbers in the meta are
 * within reason: what is allocated by them is bounded by the size of the file. */
static bool check_metas(struct check *c, size_t transaction)
{
	struct stat s;
	MDB_meta meta[NUM_METAS];
	if (fstat(c->fd, &s)) return check_fail(c, "%s: %s", c->path, strerror(errno));
	c->file_size = (size_t)s.st_size;
	if (!s.st_size)
		return check_fail(c, "%s is empty; restore a backup or remove it", c->path);
	if (!check_read_meta(c, 0, &meta[0]) || !check_read_meta(c, meta[0].mm_psize, &meta[1]))
		return check_fail(c,
		                  "%s is damaged or no store of presence (%zu bytes);"
		                  " restore a backup or choose another --data",
		                  c->path, c->file_size);
	c->page_size = meta[0].mm_psize;
	int newest = meta[1].mm_txnid > meta[0].mm_txnid;
	if (transaction && meta[newest].mm_txnid != transaction) newest = !newest;
	c->meta = meta[newest];
	size_t pages = c->file_size / c->page_size;
	if (pages < NUM_METAS || meta[0].mm_psize != meta[1].mm_psize || c->meta.mm_last_pg < 1 ||
	    c->meta.mm_last_pg / 2 > pages + MISSING_PAGES_MAX)
		return check_fail(c, "%s is cut short to %zu bytes; restore a backup", c->path,
		                  c->file_size);
	return !transaction || c->meta.mm_txnid == transaction;
}

/* Checks what the meta page reaches. The free pages come first: whatever else refers to one of them
 * is refused there, before it is read. */
static bool check_trees(struct check *c)
{
	const struct lmdb_check_trees *known = c->known;
	uint32_t required = ((uint32_t)1 << known->required) - 1;
	if (c->file_size / c->page_size <= c->meta.mm_last_pg) c->deadline = 0;
	for (size_t i = 0; i < known->count; i++) c->trees[i] = (MDB_db){.md_root = P_INVALID};
	c->seen = calloc(1, c->meta.mm_last_pg / 8 + 1);
	if (!c->seen) return check_fail(c, "cannot check %s: no memory", c->path);
	bool ok = check_tree(c, TREE_FREE, &c->meta.mm_dbs[FREE_DBI]) &&
	          check_tree(c, TREE_MAIN, &c->meta.mm_dbs[MAIN_DBI]);
	if (ok && (c->found & required) != required)
		ok = check_fail(c, "%s is no store of presence; choose another --data", c->path);
	for (size_t i = 0; ok && i < known->count; i++) ok = check_tree(c, (int)i, &c->trees[i]);
	free(c->seen);
	return ok;
}

bool lmdb_check_file(const char *path, const struct lmdb_check_trees *trees, size_t transaction,
                     int64_t budget_ms, char *why, size_t why_size)
{
	struct check c = {.path = path, .known = trees, .why = why, .why_size = why_size};
	if (budget_ms) c.deadline = check_now_ms() + budget_ms;
	c.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (c.fd < 0) return check_fail(&c, "cannot open %s: %s", path, strerror(errno));
	bool ok = check_metas(&c, transaction) && (!trees || check_trees(&c));
	close(c.fd);
	return ok;
}
