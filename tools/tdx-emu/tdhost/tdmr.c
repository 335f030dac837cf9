// SPDX-License-Identifier: GPL-2.0
/*
 * TDMRs: aligned ranges of physical memory that the TDX module manages. Each has
 * a PAMT, memory for the module's notes about every page. What is no RAM, and
 * the PAMTs themselves, are reserved areas of the TDMR that they lie in.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/align.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/printk.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/sort.h>

#include "tdmr.h"

/* Below, firmware and real mode have their own ideas of memory. */
#define LOW_MEMORY_END SZ_1M
/* Ranges of RAM between holes; a PC has three. */
#define MAX_RANGES 64

struct range_list {
	unsigned int nr;
	struct {
		u64 start;
		u64 end;
	} range[MAX_RANGES];
};

static int add_ram(struct resource *res, void *data)
{
	struct range_list *ram = data;
	u64 start = max_t(u64, ALIGN(res->start, PAGE_SIZE), LOW_MEMORY_END);
	u64 end = ALIGN_DOWN(res->end + 1, PAGE_SIZE);

	if (start >= end)
		return 0;
	if (ram->nr == MAX_RANGES)
		return -ENOSPC;
	ram->range[ram->nr].start = start;
	ram->range[ram->nr].end = end;
	ram->nr++;
	return 0;
}

/* One TDMR for each run of aligned blocks with memory in them. */
static int cover(struct tdmr_list *list, const struct range_list *ram)
{
	struct tdmr_info *last = NULL;
	unsigned int i;

	for (i = 0; i < ram->nr; i++) {
		u64 start = ALIGN_DOWN(ram->range[i].start, TDX_TDMR_ALIGN);
		u64 end = ALIGN(ram->range[i].end, TDX_TDMR_ALIGN);

		if (last && start <= last->base + last->size) {
			last->size = max(end, last->base + last->size) - last->base;
			continue;
		}
		if (list->nr == TDX_TDMR_MAX)
			return -ENOSPC;
		last = &list->info[list->nr++];
		last->base = start;
		last->size = end - start;
	}
	return list->nr ? 0 : -ENODEV;
}

static u64 pamt_size(const struct tdmr_info *info, u64 page)
{
	return ALIGN(info->size / page * TDX_PAMT_ENTRY, PAGE_SIZE);
}

static int alloc_pamt(struct tdmr_list *list, unsigned int i, const struct range_list *ram)
{
	struct tdmr_info *info = &list->info[i];
	int nid = NUMA_NO_NODE;
	unsigned int r;
	u64 at;

	info->pamt_4k_size = pamt_size(info, SZ_4K);
	info->pamt_2m_size = pamt_size(info, SZ_2M);
	info->pamt_1g_size = pamt_size(info, SZ_1G);
	list->pamt_pages[i] = (info->pamt_4k_size + info->pamt_2m_size +
			       info->pamt_1g_size) >> PAGE_SHIFT;

	for (r = 0; r < ram->nr && nid == NUMA_NO_NODE; r++)
		if (ram->range[r].end > info->base)
			nid = pfn_to_nid(PHYS_PFN(ram->range[r].start));

	list->pamt[i] = alloc_contig_pages(list->pamt_pages[i], GFP_KERNEL, nid,
					   &node_online_map);
	if (!list->pamt[i])
		return -ENOMEM;
	at = page_to_phys(list->pamt[i]);
	info->pamt_4k_base = at;
	info->pamt_2m_base = at + info->pamt_4k_size;
	info->pamt_1g_base = info->pamt_2m_base + info->pamt_2m_size;
	return 0;
}

/* Reserves what of [start, end) lies in the TDMR. */
static int reserve(struct tdmr_info *info, unsigned int *nr, u64 start, u64 end)
{
	start = max(start, info->base);
	end = min(end, info->base + info->size);
	if (start >= end)
		return 0;
	if (*nr == TDX_TDMR_MAX_RESERVED)
		return -ENOSPC;
	info->reserved[*nr].offset = start - info->base;
	info->reserved[*nr].size = end - start;
	++*nr;
	return 0;
}

static int compare_areas(const void *a, const void *b)
{
	const struct tdmr_reserved *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int reserve_all(struct tdmr_list *list, unsigned int i, const struct range_list *ram)
{
	struct tdmr_info *info = &list->info[i];
	unsigned int nr = 0, j;
	u64 hole = info->base;
	int ret;

	for (j = 0; j < ram->nr; j++) {
		ret = reserve(info, &nr, hole, ram->range[j].start);
		if (ret)
			return ret;
		hole = max(hole, ram->range[j].end);
	}
	ret = reserve(info, &nr, hole, info->base + info->size);
	for (j = 0; !ret && j < list->nr; j++) {
		u64 start = page_to_phys(list->pamt[j]);

		ret = reserve(info, &nr, start,
			      start + ((u64)list->pamt_pages[j] << PAGE_SHIFT));
	}
	sort(info->reserved, nr, sizeof(info->reserved[0]), compare_areas, NULL);
	return ret;
}

/**
 * tdmr_build - describe all memory of the machine to the TDX module
 * @list: to be filled
 *
 * Context: May sleep. Memory must not be added or removed meanwhile.
 * Return: 0, then the caller owns the tables and PAMTs; or an errno.
 */
int tdmr_build(struct tdmr_list *list)
{
	struct range_list *ram;
	unsigned int i;
	int ret;

	memset(list, 0, sizeof(*list));
	ram = kzalloc_obj(*ram);
	list->info = alloc_pages_exact(TDX_TDMR_MAX * sizeof(*list->info),
				       GFP_KERNEL | __GFP_ZERO);
	if (!ram || !list->info) {
		ret = -ENOMEM;
		goto out;
	}
	ret = walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY,
				  0, -1, ram, add_ram);
	if (!ret)
		ret = cover(list, ram);
	for (i = 0; !ret && i < list->nr; i++)
		ret = alloc_pamt(list, i, ram);
	for (i = 0; !ret && i < list->nr; i++)
		ret = reserve_all(list, i, ram);
out:
	kfree(ram);
	if (ret) {
		tdmr_free_pamts(list);
		tdmr_free_info(list);
	}
	return ret;
}

void tdmr_free_info(struct tdmr_list *list)
{
	if (list->info)
		free_pages_exact(list->info, TDX_TDMR_MAX * sizeof(*list->info));
	list->info = NULL;
}

/* tdmr_free_pamts - give the PAMTs back. The TDX module does not use them. */
void tdmr_free_pamts(struct tdmr_list *list)
{
	unsigned int i;

	for (i = 0; i < TDX_TDMR_MAX; i++) {
		if (list->pamt[i])
			free_contig_range(page_to_pfn(list->pamt[i]), list->pamt_pages[i]);
		list->pamt[i] = NULL;
	}
	list->nr = 0;
}

unsigned long tdmr_pamt_bytes(const struct tdmr_list *list)
{
	unsigned long pages = 0;
	unsigned int i;

	for (i = 0; i < list->nr; i++)
		pages += list->pamt_pages[i];
	return pages << PAGE_SHIFT;
}
