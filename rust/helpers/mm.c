// SPDX-License-Identifier: GPL-2.0

#include <linux/atomic.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/folio_batch.h>
#include <linux/sched.h>
#include <linux/wait_bit.h>

#include <asm/cpufeature.h>
#include <asm/special_insns.h>

#include "../ffi.h"

/*
 * Zero a page. Where a partial write to a line that is still marked as a TD's poisons
 * it, write whole lines: it may be one that the TDX module has just given back.
 */
void privmemfd_helper_clear_folio(struct folio *folio)
{
	const void *zeroes = page_address(ZERO_PAGE(0));
	void *line = folio_address(folio), *end = line + PAGE_SIZE;

	if (!boot_cpu_has_bug(X86_BUG_TDX_PW_MCE)) {
		clear_highpage(folio_page(folio, 0));
		return;
	}

	for (; line < end; line += 64)
		movdir64b(line, zeroes);

	/* The stores are weakly ordered: complete before any other write to the page. */
	mb();
}

void privmemfd_helper_cond_resched(void)
{
	cond_resched();
}

void privmemfd_helper_filemap_invalidate_lock(struct address_space *mapping)
{
	filemap_invalidate_lock(mapping);
}

void privmemfd_helper_filemap_invalidate_unlock(struct address_space *mapping)
{
	filemap_invalidate_unlock(mapping);
}

void privmemfd_helper_filemap_invalidate_lock_shared(struct address_space *mapping)
{
	filemap_invalidate_lock_shared(mapping);
}

int privmemfd_helper_filemap_invalidate_trylock_shared(struct address_space *mapping)
{
	return filemap_invalidate_trylock_shared(mapping);
}

void privmemfd_helper_filemap_invalidate_unlock_shared(struct address_space *mapping)
{
	filemap_invalidate_unlock_shared(mapping);
}

struct folio *privmemfd_helper_filemap_lock_folio(struct address_space *mapping,
						  pgoff_t index)
{
	return filemap_lock_folio(mapping, index);
}

/* Whether the task says where its memory comes from; without, it is the node it runs on. */
static bool has_policy(void)
{
#ifdef CONFIG_NUMA
	return current->mempolicy;
#else
	return false;
#endif
}

/*
 * Up to nr folios of order 0; folios has NULL for each. Returns how many, maybe fewer;
 * 0 if there is no memory. May sleep.
 */
unsigned int privmemfd_helper_alloc_folios(struct privmemfd_placement *from, unsigned int nr,
					   struct folio **folios)
{
	nodemask_t *nodes = nodes_empty(from->nodes) ? NULL : &from->nodes;
	unsigned int got;
	int nid = from->nid;

	if (nid == NUMA_NO_NODE) {
		/* The bulk allocator that knows memory policies is not exported. */
		if (nr == 1 || has_policy()) {
			folios[0] = folio_alloc(from->gfp, 0);
			return folios[0] ? 1 : 0;
		}
		nid = numa_node_id();
	}
	if (nr == 1) {
		folios[0] = __folio_alloc(from->gfp, 0, nid, nodes);
		return folios[0] ? 1 : 0;
	}

	/*
	 * A page of order 0 is its own folio. The bulk allocator goes to no other node: where
	 * nid has no room it gives one page, of the nearest that has, which then gives the rest.
	 */
	got = __alloc_pages_bulk(from->gfp, nid, nodes, nr, (struct page **)folios);
	if (got == 1 && folio_nid(folios[0]) != nid)
		got = __alloc_pages_bulk(from->gfp, folio_nid(folios[0]), nodes, nr,
					 (struct page **)folios);
	return got;
}

void *privmemfd_helper_folio_address(const struct folio *folio)
{
	return folio_address(folio);
}

void privmemfd_helper_folio_batch_init(struct folio_batch *fbatch)
{
	folio_batch_init(fbatch);
}

void privmemfd_helper_folio_clear_active(struct folio *folio)
{
	folio_clear_active(folio);
}

void privmemfd_helper_folio_clear_unevictable(struct folio *folio)
{
	folio_clear_unevictable(folio);
}

void privmemfd_helper_folio_get(struct folio *folio)
{
	folio_get(folio);
}

void privmemfd_helper_folio_lock(struct folio *folio)
{
	folio_lock(folio);
}

void privmemfd_helper_folio_mark_uptodate(struct folio *folio)
{
	folio_mark_uptodate(folio);
}

int privmemfd_helper_folio_nid(const struct folio *folio)
{
	return folio_nid(folio);
}

unsigned long privmemfd_helper_folio_pfn(const struct folio *folio)
{
	return folio_pfn(folio);
}

void privmemfd_helper_folio_put(struct folio *folio)
{
	folio_put(folio);
}

bool privmemfd_helper_folio_test_reserved(const struct folio *folio)
{
	return PageReserved(&folio->page);
}

/* What KVM does with a folio that the TDX module does not give back, for a test. */
void privmemfd_helper_test_folio_set_kept(struct folio *folio, bool kept)
{
	struct page *page = folio_page(folio, 0);

	if (kept && !PageReserved(page)) {
		folio_get(folio);
		SetPageReserved(page);
	} else if (!kept && PageReserved(page)) {
		ClearPageReserved(page);
		folio_put(folio);
	}
}

/*
 * The folio at a frame, with a reference, if it is in a file with these operations;
 * otherwise NULL. The frame has a struct page.
 */
static struct folio *get_folio_of(unsigned long pfn, const struct address_space_operations *ops)
{
	struct page *page = pfn_to_page(pfn);
	struct folio *folio = page_folio(page);
	const struct address_space *mapping;
	bool ours;

	if (!folio_try_get(folio))
		return NULL;
	/* It may have become a part of another, or something that has no mapping. */
	ours = folio_page(folio, 0) == page && !folio_test_large(folio) &&
	       page_folio(page) == folio;
	/* RCU frees what the mapping is a part of. */
	rcu_read_lock();
	mapping = ours ? folio_mapping(folio) : NULL;
	ours = mapping && READ_ONCE(mapping->a_ops) == ops;
	rcu_read_unlock();
	if (ours)
		return folio;
	folio_put(folio);
	return NULL;
}

/* Whether a locked folio is, which keeps the mapping alive. */
static bool locked_folio_is_of(const struct folio *folio,
			       const struct address_space_operations *ops)
{
	return folio->mapping && folio->mapping->a_ops == ops;
}

/* Whether the memory of a frame has failed. It has a struct page. */
bool privmemfd_helper_has_failed(unsigned long pfn)
{
	return PageHWPoison(pfn_to_page(pfn));
}

/*
 * The folio at a frame, locked and with a reference, if it is in a file with these
 * operations; otherwise NULL. The frame has a struct page.
 */
struct folio *privmemfd_helper_lock_folio_of(unsigned long pfn,
					     const struct address_space_operations *ops)
{
	struct folio *folio = get_folio_of(pfn, ops);

	if (!folio)
		return NULL;
	folio_lock(folio);
	if (locked_folio_is_of(folio, ops))
		return folio;
	folio_unlock(folio);
	folio_put(folio);
	return NULL;
}

/* The same of any folio of these files whose lock is free. */
struct folio *privmemfd_helper_trylock_folio(unsigned long pfn,
					     const struct address_space_operations *ops)
{
	struct folio *folio = get_folio_of(pfn, ops);

	if (!folio)
		return NULL;
	if (folio_trylock(folio)) {
		if (locked_folio_is_of(folio, ops))
			return folio;
		folio_unlock(folio);
	}
	folio_put(folio);
	return NULL;
}

/*
 * The same of this file, which does not go away: nobody else's mapping has to be
 * looked at.
 */
struct folio *privmemfd_helper_trylock_folio_in(unsigned long pfn,
						const struct address_space *mapping)
{
	struct folio *folio = page_folio(pfn_to_page(pfn));

	if (READ_ONCE(folio->mapping) != mapping || !folio_try_get(folio))
		return NULL;
	if (folio_trylock(folio)) {
		if (folio->mapping == mapping && folio_pfn(folio) == pfn)
			return folio;
		folio_unlock(folio);
	}
	folio_put(folio);
	return NULL;
}

/*
 * Look from *pfn on for the first folio of a file with these operations that is on
 * an LRU list, as mm does for what it can move. *pfn is where to go on. The frames
 * have a struct page.
 */
bool privmemfd_helper_find_folio(unsigned long *pfn, unsigned long end,
				 const struct address_space_operations *ops,
				 struct privmemfd_sighting *found)
{
	while (*pfn < end) {
		unsigned long this = (*pfn)++;
		const struct page *page = pfn_to_page(this);
		struct folio *folio;

		/* Ours are unevictable. Most others end here. */
		if (!test_bit(PG_unevictable, &page->flags.f) || !PageLRU(page))
			continue;
		folio = get_folio_of(this, ops);
		if (!folio)
			continue;
		found->mapping = READ_ONCE(folio->mapping);
		found->index = folio->index;
		found->pfn = this;
		folio_put(folio);
		return true;
	}

	return false;
}

/*
 * Where mm would put a folio at a frame whose block goes offline: on another node if
 * there is one that has memory. Does not change before the block has gone.
 */
void privmemfd_helper_away(unsigned long pfn, struct privmemfd_placement *away)
{
	const struct page *page = pfn_to_page(pfn);

	away->nid = page_to_nid(page);
	away->nodes = node_states[N_MEMORY];
	node_clear(away->nid, away->nodes);
	if (nodes_empty(away->nodes))
		node_set(away->nid, away->nodes);
	away->gfp = GFP_KERNEL | __GFP_MOVABLE | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	if (page_zonenum(page) == ZONE_MOVABLE)
		away->gfp |= __GFP_HIGHMEM;
}

/*
 * Marks a folio as failed, as memory_failure() does, with a reference that stays
 * until it is unpoisoned. Whether this has done so: nobody else had, and the kernel
 * deals with such memory.
 */
bool privmemfd_helper_folio_mark_failed(struct folio *folio)
{
#ifdef CONFIG_MEMORY_FAILURE
	if (TestSetPageHWPoison(folio_page(folio, 0)))
		return false;
	folio_get(folio);
	return true;
#else
	return false;
#endif
}

void privmemfd_helper_test_folio_unmark_failed(struct folio *folio)
{
	if (PageHWPoison(folio_page(folio, 0))) {
		ClearPageHWPoison(folio_page(folio, 0));
		folio_put(folio);
	}
}

bool privmemfd_helper_folio_is_unusable(const struct folio *folio)
{
	return folio_test_hwpoison(folio) || PageReserved(&folio->page);
}

/* Whether the folio has content that may be written to. */
bool privmemfd_helper_folio_has_usable_content(const struct folio *folio)
{
	return folio_test_uptodate(folio) && !privmemfd_helper_folio_is_unusable(folio);
}

/*
 * folio_mark_dirty() of a folio that was never written back, in a mapping with
 * noop_dirty_folio().
 */
void privmemfd_helper_folio_set_dirty(struct folio *folio)
{
	if (!folio_test_dirty(folio))
		folio_set_dirty(folio);
}

bool privmemfd_helper_folio_test_uptodate(const struct folio *folio)
{
	return folio_test_uptodate(folio);
}

unsigned int privmemfd_helper_folio_zonenum(const struct folio *folio)
{
	return folio_zonenum(folio);
}

void privmemfd_helper_mapping_set_gfp_mask(struct address_space *mapping, gfp_t mask)
{
	mapping_set_gfp_mask(mapping, mask);
}

void privmemfd_helper_mapping_set_inaccessible(struct address_space *mapping)
{
	mapping_set_inaccessible(mapping);
}

void privmemfd_helper_mapping_set_unevictable(struct address_space *mapping)
{
	mapping_set_unevictable(mapping);
}

/*
 * memory_failure() looks once whether a frame is online, and then may wait until its
 * block has gone offline: the struct page must stay until it is done. So it must while
 * a folio that has failed leaves its file, for offlining passes such folios by whoever
 * has them. These are the tasks at work on one. No lock, for it would be taken inside
 * the one of the notifiers, which whoever memory_failure() waits for takes shared: no
 * cycle, as blocks go offline one after the other, but lockdep cannot know.
 */
static atomic_t failing;

void privmemfd_helper_failing_begin(void)
{
	atomic_inc(&failing);
	/*
	 * Pairs with privmemfd_helper_failing_sync(), and with the offline section that
	 * memory_failure() looks for.
	 */
	smp_mb__after_atomic();
}

void privmemfd_helper_failing_end(void)
{
	if (atomic_dec_and_test(&failing))
		wake_up_var(&failing);
}

/* Wait for all that have begun. */
void privmemfd_helper_failing_sync(void)
{
	/* Who begins after this finds what the caller has done before. */
	smp_mb();
	wait_var_event(&failing, !atomic_read(&failing));
}

/*
 * Whoever has found the error has told the kernel that it is a real one, which would
 * be known by a call without MF_SW_SIMULATED as well.
 */
int privmemfd_helper_memory_failure(unsigned long pfn)
{
#ifdef CONFIG_MEMORY_FAILURE
	return memory_failure(pfn, MF_SW_SIMULATED);
#else
	return -EOPNOTSUPP;
#endif
}

bool privmemfd_helper_node_online(int nid)
{
	return nid >= 0 && nid < MAX_NUMNODES && node_online(nid);
}

int privmemfd_helper_register_memory_notifier(struct notifier_block *nb)
{
	return register_memory_notifier(nb);
}

void privmemfd_helper_unregister_memory_notifier(struct notifier_block *nb)
{
	unregister_memory_notifier(nb);
}
