// SPDX-License-Identifier: GPL-2.0
/*
 * cmaalloc.ko - allocates from the default CMA area on request
 *
 * For kernels without CONFIG_CMA_DEBUGFS, as distributions' are. The files are those of
 * that option, below /sys/kernel/debug/cma/AREA: base_pfn and count of the area, and alloc
 * and free, to which a number of pages is written. All are freed when the module goes.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cleanup.h>
#include <linux/cma.h>
#include <linux/debugfs.h>
#include <linux/dma-map-ops.h>
#include <linux/errno.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/slab.h>

/* What is allocated in one piece. */
struct piece {
	struct list_head list;
	struct page *pages;
	unsigned long count;
};

static struct cma *area;
static struct dentry *root;
static LIST_HEAD(pieces);
static DEFINE_MUTEX(pieces_lock);
static u64 base_pfn;
/* The size of an area is told to no module, but to user space: /sys/kernel/mm/cma. */
static ulong pages;

static int take(unsigned long count, bool no_warn)
{
	struct piece *piece __free(kfree) = kzalloc_obj(*piece);

	if (!piece)
		return -ENOMEM;
	piece->pages = cma_alloc(area, count, 0, no_warn);
	if (!piece->pages)
		return -ENOMEM;
	piece->count = count;
	list_add(&no_free_ptr(piece)->list, &pieces);
	return 0;
}

/* Pieces at whose end @count would lie are freed in part. */
static void give_back(unsigned long count)
{
	while (count && !list_empty(&pieces)) {
		struct piece *piece = list_first_entry(&pieces, struct piece, list);
		unsigned long part = min(count, piece->count);

		cma_release(area, piece->pages + piece->count - part, part);
		count -= part;
		piece->count -= part;
		if (!piece->count) {
			list_del(&piece->list);
			kfree(piece);
		}
	}
}

static int alloc_set(void *unused, u64 count)
{
	guard(mutex)(&pieces_lock);
	return take(count, false);
}

static int free_set(void *unused, u64 count)
{
	guard(mutex)(&pieces_lock);
	give_back(count);
	return 0;
}

/*
 * Where an area begins is told to no module either. All of it that is free is taken, in pieces
 * as large as can be; the area has all of them, and begins at a multiple of its least alignment.
 * There is only one such place if less than that is in use at its two ends together. Else it is
 * not known where the area is.
 */
static int find_area(void)
{
	unsigned long lowest = ULONG_MAX, end = 0, count = pages, base;
	struct piece *piece;

	while (count) {
		if (take(count, true))
			count /= 2;
	}
	list_for_each_entry(piece, &pieces, list) {
		lowest = min(lowest, page_to_pfn(piece->pages));
		end = max(end, page_to_pfn(piece->pages) + piece->count);
	}
	give_back(ULONG_MAX);
	base = ALIGN_DOWN(lowest, CMA_MIN_ALIGNMENT_PAGES);
	if (!end || base + pages < end || base + pages - CMA_MIN_ALIGNMENT_PAGES >= end) {
		pr_err("pages at the ends of the area are in use: it is not known where it begins\n");
		return -EBUSY;
	}
	base_pfn = base;
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(alloc_fops, NULL, alloc_set, "%llu\n");
DEFINE_DEBUGFS_ATTRIBUTE(free_fops, NULL, free_set, "%llu\n");

static int __init cmaalloc_init(void)
{
	struct dentry *dir;
	int ret;

	area = dev_get_cma_area(NULL);
	if (!area)
		return -ENODEV;
	if (!pages)
		return -EINVAL;

	ret = find_area();
	if (ret)
		return ret;

	root = debugfs_create_dir("cma", NULL);
	if (IS_ERR(root))
		return PTR_ERR(root);
	dir = debugfs_create_dir(cma_get_name(area), root);
	debugfs_create_u64("base_pfn", 0400, dir, &base_pfn);
	debugfs_create_ulong("count", 0400, dir, &pages);
	debugfs_create_file_unsafe("alloc", 0200, dir, NULL, &alloc_fops);
	debugfs_create_file_unsafe("free", 0200, dir, NULL, &free_fops);
	return 0;
}
module_init(cmaalloc_init);

static void __exit cmaalloc_exit(void)
{
	debugfs_remove(root);
	give_back(ULONG_MAX);
}
module_exit(cmaalloc_exit);

module_param(pages, ulong, 0400);
MODULE_PARM_DESC(pages, "size of the area in pages");
MODULE_DESCRIPTION("Allocates from the CMA area on request, to test what is moved for it");
MODULE_LICENSE("GPL");
