// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM does for a provider of guest-private memory, done for TDs of ours.
 *
 * A file belongs to one TD at most. Which one changes only under its
 * invalidate_lock held exclusive, and all calls here come with that lock held,
 * so a TD that is found stays for the duration of the call.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/pagemap.h>
#include <linux/privmemfd_host.h>
#include <linux/printk.h>
#include <linux/xarray.h>

#include "td.h"

const struct kvm_gmem_provider_ops *provider;

/* TD by the address of its file's bindings. */
static DEFINE_XARRAY(tds);

static struct td *find(const struct kvm_gmem_bindings *bindings)
{
	return xa_load(&tds, (unsigned long)bindings);
}

static void invalidate_start(struct kvm_gmem_bindings *bindings, pgoff_t start, pgoff_t end)
{
	struct td *td = find(bindings);

	if (!td)
		return;
	end = min(end, td->nr_pages);
	write_lock(&td->lock);
	if (td->invalidating++) {
		td->invalid_start = min(td->invalid_start, start);
		td->invalid_end = max(td->invalid_end, end);
	} else {
		td->invalid_start = start;
		td->invalid_end = end;
	}
	write_unlock(&td->lock);
	td_zap(td, start, end);
}

static void invalidate_end(struct kvm_gmem_bindings *bindings, pgoff_t start, pgoff_t end)
{
	struct td *td = find(bindings);

	if (!td)
		return;
	write_lock(&td->lock);
	td->seq++;
	td->invalidating--;
	write_unlock(&td->lock);
}

/* Lets the backend move pages that the TD has, and follows in pfns. */
static void move(struct td *td, struct kvm_gfn_move *moves, unsigned int nr)
{
	unsigned int i;

	if (!nr)
		return;
	for (i = 0; i < nr; i++)
		moves[i].move->result = -EBUSY;
	if (td->dead || !provider->relocate_td) {
		atomic64_add(nr, &td->count.refused);
		return;
	}
	atomic64_inc(&td->count.batches);
	if (provider->relocate_td(&td->gmem, moves, nr))
		td_kill(td, "relocation");
	for (i = 0; i < nr; i++) {
		const struct kvm_gmem_move *mv = moves[i].move;

		td_keep_page(td, folio_pfn(mv->src), moves[i].src);
		if (mv->result == KVM_GMEM_MOVE_DONE) {
			td->pfns[mv->index] = folio_pfn(mv->dst);
			atomic64_inc(&td->count.moved);
		} else {
			atomic64_inc(&td->count.refused);
		}
	}
}

static bool has(const struct td *td, struct kvm_gmem_move *mv)
{
	unsigned long pfn;

	/* KVM may have failed already. */
	if (mv->result != KVM_GMEM_MOVE_COPY || mv->index >= td->nr_pages)
		return false;
	pfn = td->pfns[mv->index];
	if (!pfn)
		return false;
	if (WARN_ON_ONCE(pfn != folio_pfn(mv->src))) {
		mv->result = -EBUSY;
		return false;
	}
	return true;
}

static int relocate(struct kvm_gmem_bindings *bindings, struct kvm_gmem_move *moves,
		    unsigned int nr)
{
	struct kvm_gfn_move batch[KVM_GFN_MOVE_BATCH];
	struct td *td = find(bindings);
	unsigned int i, n = 0;

	if (!td)
		return 0;
	write_lock(&td->lock);
	/* Also for pages that are not mapped: a fault may be about to. */
	td->seq++;
	for (i = 0; i < nr; i++) {
		if (!has(td, &moves[i]))
			continue;
		batch[n].gfn = moves[i].index;
		batch[n].move = &moves[i];
		batch[n].src = KVM_GFN_MOVE_SRC_SETTLED;
		if (++n == KVM_GFN_MOVE_BATCH) {
			move(td, batch, n);
			n = 0;
		}
	}
	move(td, batch, n);
	write_unlock(&td->lock);
	return 0;
}

static const struct kvm_gmem_host_ops host_ops = {
	.size = sizeof(host_ops),
	.invalidate_start = invalidate_start,
	.invalidate_end = invalidate_end,
	.relocate = relocate,
};

/**
 * host_bind - let a TD have its file
 * @td: the TD
 *
 * Context: May sleep.
 * Return: 0, -EBUSY if somebody else has it, -ENOMEM.
 */
int host_bind(struct td *td)
{
	int ret = -EBUSY;

	filemap_invalidate_lock(td->file->f_mapping);
	if (!READ_ONCE(td->bindings->nr_vms))
		ret = xa_insert(&tds, (unsigned long)td->bindings, td, GFP_KERNEL);
	if (!ret && provider->bound)
		provider->bound(td->file, (const struct kvm *)td, 0, td->nr_pages);
	filemap_invalidate_unlock(td->file->f_mapping);
	return ret;
}

/*
 * host_unbind - the opposite. The invalidate_lock is held exclusive, for all pages
 * at once: TDs are small here.
 */
void host_unbind(struct td *td)
{
	if (provider->drop_kept)
		provider->drop_kept(td->file, 0, td->nr_pages);
	xa_erase(&tds, (unsigned long)td->bindings);
	if (provider->unbound)
		provider->unbound(td->file, (const struct kvm *)td, 0, td->nr_pages);
}

int host_register(void)
{
	return privmemfd_register_host(&host_ops, &provider);
}

/* host_unregister - no TD exists any more. May sleep. */
void host_unregister(void)
{
	privmemfd_unregister_host(&host_ops);
}
