// SPDX-License-Identifier: GPL-2.0
/*
 * memscan.ko - where in all of memory is guest content?
 *
 * debugfs memscan/pattern takes what to look for, memscan/found looks for it, in
 * every page that the direct map has, online or not, used or free, and tells the
 * page frame numbers: "PFN WORDS", one a line; the last line is "scanned N skipped N".
 * Skipped are pages that cannot be read (debug_pagealloc).
 *
 * A pattern is a function of the place and of secrets, so that each aligned word of
 * 8 bytes is known for itself, wherever it lies, and nobody but the guest ever has
 * one in memory:
 *
 *	vm SEED ROUND BYTES	((place * HASH) ^ SEED) with ROUND in the lower half,
 *				as tools/vmm/src/guest.s writes it
 *	td SEED BYTES		(SEED ^ place) * HASH, as the TDs of tdhost.ko do
 *
 * for places below BYTES. Not for concurrent use: one file, one user.
 */
#include <linux/debugfs.h>
#include <linux/errno.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#define HASH 0x9e3779b97f4a7c15ULL
/* Its inverse modulo 2^64. */
#define HASH_INVERSE 0xf1de83e19937733dULL

static_assert(HASH * HASH_INVERSE == 1);

static struct {
	bool td;
	u64 seed;
	u32 round;
	u64 bytes;
} pattern;

static struct dentry *dir;

static bool is_content(u64 word)
{
	u64 place;

	if (pattern.td) {
		place = (word * HASH_INVERSE) ^ pattern.seed;
		return place < pattern.bytes && !(place & 7);
	}
	if ((u32)word != pattern.round)
		return false;
	/* Half a word of other content equals the round once in 2^32. */
	for (place = 0; place < pattern.bytes; place += 8)
		if ((place * HASH ^ pattern.seed) >> 32 == word >> 32)
			return true;
	return false;
}

static unsigned int words_in(const u64 *page)
{
	unsigned int i, found = 0;

	for (i = 0; i < PAGE_SIZE / 8; i++)
		found += is_content(READ_ONCE(page[i]));
	return found;
}

static int found_show(struct seq_file *m, void *unused)
{
	unsigned long pfn, end = 0, scanned = 0, skipped = 0;
	int nid;

	if (!pattern.bytes)
		return -ENODATA;
	/* An offline block lies between others, or behind the last by one at most. */
	for_each_online_node(nid)
		end = max(end, node_end_pfn(nid));
	end = ALIGN(end + PAGES_PER_SECTION, PAGES_PER_SECTION);
	for (pfn = 0; pfn < end; pfn++) {
		const u64 *page;
		unsigned int words;
		u64 first;

		if (!pfn_valid(pfn))
			continue;
		page = (const u64 *)pfn_to_kaddr(pfn);
		if (get_kernel_nofault(first, page)) {
			skipped++;
			continue;
		}
		scanned++;
		words = words_in(page);
		if (words)
			seq_printf(m, "%#lx %u\n", pfn, words);
		if (!(pfn & 0xfff)) {
			if (signal_pending(current))
				return -EINTR;
			cond_resched();
		}
	}
	seq_printf(m, "scanned %lu skipped %lu\n", scanned, skipped);
	return 0;
}

static int found_open(struct inode *inode, struct file *file)
{
	/* Room for the answer at once: no second scan because it was too small. */
	return single_open_size(file, found_show, NULL, 1 << 20);
}

static const struct file_operations found_ops = {
	.owner = THIS_MODULE,
	.open = found_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
};

static ssize_t pattern_write(struct file *file, const char __user *user, size_t len, loff_t *pos)
{
	char text[80];

	if (len >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, user, len))
		return -EFAULT;
	text[len] = 0;
	pattern.td = !strncmp(text, "td ", 3);
	pattern.round = 0;
	if (pattern.td ?
	    sscanf(text, "td %llx %llx", &pattern.seed, &pattern.bytes) != 2 :
	    sscanf(text, "vm %llx %x %llx", &pattern.seed, &pattern.round, &pattern.bytes) != 3) {
		pattern.bytes = 0;
		return -EINVAL;
	}
	return len;
}

static const struct file_operations pattern_ops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = pattern_write,
};

static int __init memscan_init(void)
{
	dir = debugfs_create_dir("memscan", NULL);
	if (IS_ERR(dir))
		return PTR_ERR(dir);
	debugfs_create_file("pattern", 0200, dir, NULL, &pattern_ops);
	debugfs_create_file("found", 0400, dir, NULL, &found_ops);
	return 0;
}

static void __exit memscan_exit(void)
{
	debugfs_remove(dir);
}

module_init(memscan_init);
module_exit(memscan_exit);

MODULE_DESCRIPTION("Looks for guest content in all of memory, to test where it may be");
MODULE_LICENSE("GPL");
