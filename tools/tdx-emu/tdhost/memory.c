// SPDX-License-Identifier: GPL-2.0
/*
 * Pages of a TD: how they come into the secure EPT and leave it.
 *
 * The protocol with the provider is that of KVM: a fault notes the sequence
 * number, gets the folio, and maps it only if there was no invalidation and no
 * relocation since. Only td_add_page() does without, because it has the
 * invalidate_lock exclusive.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cacheflush.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include <tdxemu_guest.h>

#include "seamcall.h"
#include "sys.h"
#include "td.h"

/* Pages that are removed with one TDH.MEM.TRACK and one kick. */
#define ZAP_BATCH 64

static atomic64_t leaked;

/* td_leaked - pages that the module has kept, of all TDs */
u64 td_leaked(void)
{
	return atomic64_read(&leaked);
}

void td_count_leak(const char *what, u64 pa)
{
	pr_err("%s: the page at %#llx is lost\n", what, pa);
	atomic64_inc(&leaked);
}

/* td_kill - no vCPU enters from now on, and no page moves. Any context. */
void td_kill(struct td *td, const char *why)
{
	if (!xchg(&td->dead, true))
		pr_err("TD with KeyID %u is lost: %s\n", td->gmem.hkid, why);
}

/**
 * td_build_sept - make all tables of the secure EPT
 * @td: the TD
 *
 * Context: May sleep.
 * Return: 0, -ENOMEM, -EIO.
 */
int td_build_sept(struct td *td)
{
	u64 end = (u64)td->nr_pages << PAGE_SHIFT;
	unsigned int level;
	u64 gpa, pa;
	int ret;

	/* The level is that of the entry: 3 of 512 GiB, 2 of 1 GiB, 1 of 2 MiB. */
	for (level = 3; level > 0; level--) {
		for (gpa = 0; gpa < end; gpa += 1ULL << (PAGE_SHIFT + 9 * level)) {
			ret = td_give_control_page(td, &pa);
			if (!ret)
				ret = tdx_report("TDH.MEM.SEPT.ADD",
						 tdx_call(TDH_MEM_SEPT_ADD, .rcx = gpa | level,
							  .rdx = td->gmem.tdr, .r8 = pa));
			if (ret)
				return ret;
			cond_resched();
		}
	}
	return 0;
}

/* The page will belong to the TD: nothing of it may stay in the caches. */
static void give(unsigned long pfn)
{
	clflush_cache_range(__va(PFN_PHYS(pfn)), PAGE_SIZE);
}

static struct folio *get_folio(struct td *td, unsigned long index)
{
	struct folio *folio = provider->get_folio(td->file, index);

	if (!IS_ERR(folio) && !folio_test_uptodate(folio)) {
		clear_highpage(folio_page(folio, 0));
		folio_mark_uptodate(folio);
	}
	return folio;
}

static bool is_stale(const struct td *td, unsigned long index, unsigned long seq)
{
	lockdep_assert_held(&td->lock);
	return td->seq != seq ||
	       (td->invalidating && index >= td->invalid_start && index < td->invalid_end);
}

/**
 * td_add_page - give the TD a page with content
 * @td: the TD, not finalized
 * @index: number of the page
 * @seed: the content, see tdxemu_word()
 *
 * Context: May sleep.
 * Return: 0, -EEXIST, -EBUSY if the TD is finalized, -ENOMEM, -EIO.
 */
int td_add_page(struct td *td, unsigned long index, u64 seed)
{
	struct address_space *mapping = td->file->f_mapping;
	u64 gpa = (u64)index << PAGE_SHIFT;
	struct folio *folio;
	u64 *source;
	size_t i;
	int ret;

	source = (u64 *)get_zeroed_page(GFP_KERNEL);
	if (!source)
		return -ENOMEM;
	for (i = 0; i < PAGE_SIZE / sizeof(*source); i++)
		source[i] = tdxemu_word(seed, gpa + i * sizeof(*source));

	filemap_invalidate_lock(mapping);
	folio = get_folio(td, index);
	if (IS_ERR(folio)) {
		ret = PTR_ERR(folio);
		goto unlock;
	}
	folio_unlock(folio);

	write_lock(&td->lock);
	if (td->dead) {
		ret = -EIO;
	} else if (td->gmem.runnable) {
		ret = -EBUSY;
	} else if (td->pfns[index]) {
		ret = -EEXIST;
	} else {
		give(folio_pfn(folio));
		ret = tdx_report("TDH.MEM.PAGE.ADD",
				 tdx_call(TDH_MEM_PAGE_ADD, .rcx = gpa, .rdx = td->gmem.tdr,
					  .r8 = PFN_PHYS(folio_pfn(folio)),
					  .r9 = virt_to_phys(source)));
		if (!ret)
			td->pfns[index] = folio_pfn(folio);
	}
	write_unlock(&td->lock);
	folio_put(folio);
unlock:
	filemap_invalidate_unlock(mapping);
	free_page((unsigned long)source);
	return ret;
}

/* Maps a frame, with td->lock for read. */
static int aug(struct td *td, unsigned long index, unsigned long pfn)
{
	unsigned long old = cmpxchg(&td->pfns[index], 0, TD_PFN_FROZEN);
	int ret;

	if (old == TD_PFN_FROZEN)
		return -EAGAIN;
	if (old) {
		/* Another vCPU was faster; there is one folio at a time. */
		if (WARN_ON_ONCE(old != pfn))
			td_kill(td, "a page has two places");
		return 0;
	}
	give(pfn);
	ret = tdx_report("TDH.MEM.PAGE.AUG",
			 tdx_call(TDH_MEM_PAGE_AUG, .rcx = (u64)index << PAGE_SHIFT,
				  .rdx = td->gmem.tdr, .r8 = PFN_PHYS(pfn)));
	WRITE_ONCE(td->pfns[index], ret ? 0 : pfn);
	return ret;
}

/**
 * td_fault - see to it that the TD has a page
 * @td: the TD
 * @index: number of the page
 *
 * Waits while the page is being moved.
 *
 * Context: May sleep.
 * Return: 0; -EAGAIN to try again, -EIO, or an errno of the provider.
 */
int td_fault(struct td *td, unsigned long index)
{
	unsigned long seq = READ_ONCE(td->seq);
	struct folio *folio;
	int ret;

	/* Pairs with the lock under which the number changes. */
	smp_rmb();
	folio = get_folio(td, index);
	/* A page that a lost TD keeps is an error, but not the reason. */
	if (IS_ERR(folio))
		return READ_ONCE(td->dead) ? -EIO : PTR_ERR(folio);
	folio_unlock(folio);

	read_lock(&td->lock);
	if (td->dead)
		ret = -EIO;
	else if (is_stale(td, index, seq))
		ret = -EAGAIN;
	else
		ret = aug(td, index, folio_pfn(folio));
	read_unlock(&td->lock);
	folio_put(folio);
	return ret;
}

/*
 * Calls a leaf that the guest can be in the way of: if it is busy, once more
 * with all vCPUs outside.
 */
static u64 call_alone(struct td *td, enum tdx_leaf leaf, struct tdx_regs *regs)
{
	const struct tdx_regs in = *regs;
	u64 status = tdx_seamcall(leaf, regs);

	if (tdx_is(status, TDX_OPERAND_BUSY)) {
		td_hold(&td->gmem);
		*regs = in;
		status = tdx_seamcall(leaf, regs);
		td_release(&td->gmem);
	}
	return status;
}

static int call_page(struct td *td, enum tdx_leaf leaf, const char *what, unsigned long index,
		     u64 *rcx)
{
	struct tdx_regs regs = { .rcx = (u64)index << PAGE_SHIFT, .rdx = td->gmem.tdr };
	u64 status = call_alone(td, leaf, &regs);

	if (rcx)
		*rcx = regs.rcx;
	/* Busy with nobody inside is no less a failure than anything else. */
	return tdx_report(what, status) ? -EIO : 0;
}

static int track(struct td *td)
{
	struct tdx_regs regs = { .rcx = td->gmem.tdr };

	if (!td->gmem.runnable)
		return 0;
	if (tdx_report("TDH.MEM.TRACK", call_alone(td, TDH_MEM_TRACK, &regs)))
		return -EIO;
	td_kick(&td->gmem);
	return 0;
}

/**
 * td_keep_page - do what KVM does with a page that a TD does not give back
 * @td: the TD, with td->lock held for write
 * @pfn: the page
 * @why: one of KVM_GFN_MOVE_SRC_*
 *
 * The page is marked, and stays, until td_reclaim_kept().
 */
void td_keep_page(struct td *td, unsigned long pfn, unsigned int why)
{
	struct page *page = pfn_to_page(pfn);

	lockdep_assert_held_write(&td->lock);
	if (why == KVM_GFN_MOVE_SRC_SETTLED || xa_load(&td->kept, pfn))
		return;
	get_page(page);
	SetPageReserved(page);
	if (xa_err(xa_store(&td->kept, pfn, xa_mk_value(why), GFP_ATOMIC)))
		td_count_leak("memory of a TD", PFN_PHYS(pfn));
}

/* Sets what is the matter with the page if it fails. */
static int remove_page(struct td *td, unsigned long index, unsigned int *why)
{
	unsigned long pfn = td->pfns[index];
	u64 hpa;
	int ret;

	ret = call_page(td, TDH_MEM_PAGE_REMOVE, "TDH.MEM.PAGE.REMOVE", index, &hpa);
	if (ret)
		return ret;
	if (WARN_ON_ONCE((hpa & TDX_SEPT_HPA) != PFN_PHYS(pfn)))
		return -EIO;
	*why = KVM_GFN_MOVE_SRC_CACHED;
	return tdx_report("TDH.PHYMEM.PAGE.WBINVD",
			  tdx_call(TDH_PHYMEM_PAGE_WBINVD,
				   .rcx = tdx_with_hkid(PFN_PHYS(pfn), td->gmem.hkid)));
}

/* Takes mapped pages from the TD, with td->lock for write. */
static void zap_batch(struct td *td, unsigned long start, unsigned long end)
{
	unsigned long i;
	int ret = 0;

	/* A page that has been kept is blocked, and stays so. */
	for (i = start; i < end; i++)
		if (td->pfns[i] && xa_load(&td->kept, td->pfns[i]))
			td->pfns[i] = 0;
	for (i = start; !ret && i < end; i++)
		if (td->pfns[i])
			ret = call_page(td, TDH_MEM_RANGE_BLOCK, "TDH.MEM.RANGE.BLOCK", i, NULL);
	if (!ret)
		ret = track(td);
	for (i = start; i < end; i++) {
		unsigned int why = KVM_GFN_MOVE_SRC_OWNED;

		if (!td->pfns[i])
			continue;
		if (!ret)
			ret = remove_page(td, i, &why);
		if (ret) {
			td_kill(td, "a page cannot be removed");
			td_keep_page(td, td->pfns[i], why);
		}
		td->pfns[i] = 0;
		atomic64_inc(&td->count.removed);
	}
}

/**
 * td_zap - take pages from the TD
 * @td: the TD, with an invalidation of these pages under way
 * @start: first page
 * @end: page after the last
 *
 * Pages that cannot be taken are kept, and the TD is lost.
 *
 * Context: May sleep. The invalidate_lock is held.
 */
void td_zap(struct td *td, unsigned long start, unsigned long end)
{
	unsigned long next;

	for (; start < end; start = next) {
		/* Skip what is not there without the lock; nothing is added. */
		if (!READ_ONCE(td->pfns[start])) {
			next = start + 1;
			continue;
		}
		next = min(start + ZAP_BATCH, end);
		write_lock(&td->lock);
		zap_batch(td, start, next);
		write_unlock(&td->lock);
		cond_resched();
	}
}

/**
 * td_reclaim_kept - take what was kept from a TD whose keys and caches are flushed
 * @td: the TD, which has no file any more
 *
 * Context: May sleep.
 */
void td_reclaim_kept(struct td *td)
{
	unsigned long pfn;
	void *why;

	xa_for_each(&td->kept, pfn, why) {
		struct page *page = pfn_to_page(pfn);
		u64 status = 0;

		if (xa_to_value(why) == KVM_GFN_MOVE_SRC_OWNED)
			status = tdx_call(TDH_PHYMEM_PAGE_RECLAIM, .rcx = PFN_PHYS(pfn));
		if (tdx_report("TDH.PHYMEM.PAGE.RECLAIM", status)) {
			td_count_leak("memory of a TD", PFN_PHYS(pfn));
			continue;
		}
		ClearPageReserved(page);
		put_page(page);
		cond_resched();
	}
}

/* td_leak_kept - the keys stay with the TD, and its pages too */
void td_leak_kept(struct td *td)
{
	unsigned long pfn;
	void *why;

	xa_for_each(&td->kept, pfn, why)
		td_count_leak("memory of a TD", PFN_PHYS(pfn));
}

/**
 * td_read - a word of a debuggable TD
 * @td: the TD
 * @gpa: its address, a multiple of 8
 * @value: out
 *
 * Context: May sleep.
 * Return: 0, -EAGAIN, -ENXIO if there is no accepted page.
 */
int td_read(struct td *td, u64 gpa, u64 *value)
{
	struct tdx_regs regs = { .rcx = gpa, .rdx = td->gmem.tdr };
	u64 status;

	read_lock(&td->lock);
	status = tdx_seamcall(TDH_MEM_RD, &regs);
	read_unlock(&td->lock);
	if (tdx_is(status, TDX_EPT_ENTRY_NOT_PRESENT) ||
	    tdx_is(status, TDX_EPT_ENTRY_STATE_INCORRECT))
		return -ENXIO;
	*value = regs.r8;
	return tdx_report("TDH.MEM.RD", status);
}

/**
 * td_sept - an entry of the secure EPT
 * @td: the TD
 * @index: number of the page
 * @entry: out: the entry
 * @info: out: level and state
 * @mirror: out: the frame as this module believes
 *
 * Context: May sleep.
 * Return: 0, -EAGAIN, -EIO.
 */
int td_sept(struct td *td, unsigned long index, u64 *entry, u64 *info, unsigned long *mirror)
{
	struct tdx_regs regs = { .rcx = (u64)index << PAGE_SHIFT, .rdx = td->gmem.tdr };
	u64 status;

	/* For write: nothing may change between the two looks. */
	write_lock(&td->lock);
	status = tdx_seamcall(TDH_MEM_SEPT_RD, &regs);
	*mirror = td->pfns[index];
	write_unlock(&td->lock);
	*entry = regs.rcx;
	*info = regs.rdx;
	return tdx_report("TDH.MEM.SEPT.RD", status);
}
