/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Guest-private memory supplied by another module.
 *
 * A provider makes files that KVM accepts as guest_memfd. It owns the folios;
 * KVM owns the bindings (which range of which file backs which memslot of which
 * VM) and the protocol that keeps vCPUs off a folio while it goes away. A
 * memslot pins the file, the file pins the provider's module; a VM is unbound
 * from all provider files before anything else of it is torn down.
 *
 * A folio that the TDX module does not give back has PG_reserved set, and KVM has
 * a reference to it, until the TD is destroyed. The provider neither gives it to a
 * guest nor moves, erases or frees it meanwhile.
 *
 * Lock order, outermost first:
 *
 *   kvm->slots_lock
 *     mapping->invalidate_lock of the file
 *       folio lock
 *         kvm->mmu_lock
 *
 * The bindings of a file change only under its invalidate_lock held exclusive.
 */
#ifndef _LINUX_KVM_GMEM_PROVIDER_H
#define _LINUX_KVM_GMEM_PROVIDER_H

#include <linux/list.h>
#include <linux/types.h>

struct file;
struct file_operations;
struct folio;
struct kvm;
struct module;

/**
 * struct kvm_gmem_bindings - KVM's view of one provider file
 * @views: one entry for each VM that has a memslot backed by the file
 * @nr_vms: number of entries in @views
 * @nr_slots: number of memslots over all VMs
 * @vm_id: the one VM that may bind the file if KVM_CREATE_GUEST_MEMFD created
 *	   it, otherwise 0
 *
 * Lives in the provider's object for the file; the provider calls
 * kvm_gmem_bindings_init() before the file is visible and never writes it
 * again. The counts may be read without a lock for statistics.
 */
struct kvm_gmem_bindings {
	struct list_head views;
	unsigned int nr_vms;
	unsigned int nr_slots;
	u64 vm_id;
};

static inline void kvm_gmem_bindings_init(struct kvm_gmem_bindings *bindings)
{
	INIT_LIST_HEAD(&bindings->views);
	bindings->nr_vms = 0;
	bindings->nr_slots = 0;
	bindings->vm_id = 0;
}

/* kvm_gmem_move.result: vCPUs are kept off @src, the caller copies the content. */
#define KVM_GMEM_MOVE_COPY	0
/* kvm_gmem_move.result: the content is in @dst and mapped from there. */
#define KVM_GMEM_MOVE_DONE	1

/**
 * struct kvm_gmem_move - one folio on its way to another place
 * @index: page offset in the file
 * @src: folio that is at @index now; locked by the caller
 * @dst: folio that will take its place; locked by the caller
 * @result: set by KVM: KVM_GMEM_MOVE_COPY, KVM_GMEM_MOVE_DONE or an errno, in
 *	    which case nothing has changed for this folio
 */
struct kvm_gmem_move {
	pgoff_t index;
	struct folio *src;
	struct folio *dst;
	int result;
};

/* Most moves at once; they are on the stack. A batch is there to kick vCPUs once. */
#define KVM_GFN_MOVE_BATCH	32

/* kvm_gfn_move.src: it is the TD's as before, or the host's, as @move->result says. */
#define KVM_GFN_MOVE_SRC_SETTLED	0
/* kvm_gfn_move.src: it may be the TD's, and cannot be taken back. */
#define KVM_GFN_MOVE_SRC_OWNED	1
/* kvm_gfn_move.src: it is the host's, but caches may hold lines of the TD's. */
#define KVM_GFN_MOVE_SRC_CACHED	2

/**
 * struct kvm_gfn_move - a move as the page table of one VM sees it
 * @gfn: guest page frame number that maps @move->src
 * @move: the move
 * @src: what has become of @move->src, set along with the result
 */
struct kvm_gfn_move {
	u64 gfn;
	struct kvm_gmem_move *move;
	unsigned int src;
};

/**
 * struct kvm_gmem_td - a TD some of whose pages are to be moved
 * @tdr: host physical address of its TDR page, without KeyID bits
 * @hkid: its private KeyID
 * @runnable: it has been finalized, i.e. vCPUs may be in the guest and TLB
 *	      tracking is needed. Does not change during the move.
 * @kick: make every vCPU leave the guest, and wait until all have left. They
 *	  may enter again at once.
 * @hold: kick, and let no vCPU enter until @release.
 * @release: the opposite of @hold.
 *
 * The callbacks are called with @kvm->mmu_lock held for write, do not sleep and
 * cannot fail; interrupts are on.
 */
struct kvm_gmem_td {
	u64 tdr;
	u16 hkid;
	bool runnable;
	void (*kick)(const struct kvm_gmem_td *td);
	void (*hold)(const struct kvm_gmem_td *td);
	void (*release)(const struct kvm_gmem_td *td);
};

/**
 * struct kvm_gmem_provider_ops - what a provider does for KVM
 * @size: sizeof(struct kvm_gmem_provider_ops)
 * @bindings_size: sizeof(struct kvm_gmem_bindings), which is part of the
 *		   provider's object
 * @host_size: sizeof(struct kvm_gmem_host_ops), which the provider calls
 * @owner: module that must stay while one of its files exists; also that of @fops
 * @fops: f_op of the provider's files; how KVM recognises them
 * @bindings: the file's struct kvm_gmem_bindings. No lock is needed.
 * @get_folio: the folio at page offset @index, allocated if need be. Returns
 *	       it locked and with a reference, or an ERR_PTR; order 0. KVM zeroes
 *	       a folio that is not uptodate. May sleep; vcpu->mutex and a read
 *	       side of kvm->srcu may be held, or the invalidate_lock exclusive
 *	       (populate). -EHWPOISON and other errors reach the VMM by
 *	       KVM_EXIT_MEMORY_FAULT, so a passing shortage must be waited for.
 * @create: a new file of @size bytes for KVM_CREATE_GUEST_MEMFD, or an ERR_PTR
 * @serves_private: true if the provider wants to serve every
 *		    KVM_CREATE_GUEST_MEMFD for private memory, whether or not the
 *		    VMM asks for movable memory. May be NULL: false.
 * @relocate_td: move pages that the S-EPT of a TD maps at 4K, by the TDX module.
 *		 Sets the result of each move to KVM_GMEM_MOVE_DONE, if the TD
 *		 uses dst now, or to an errno, if the TD has src as before:
 *		 -EAGAIN if trying again may help, or -EBUSY. Sets
 *		 kvm_gfn_move.src where that is not all: KVM keeps such a page,
 *		 with PG_reserved set and a reference, until the TD is destroyed.
 *		 Returns 0; -EIO if the TD is lost, in which case it must not run
 *		 again; -EPROTO if the TDX module has done something else than
 *		 asked for. The results hold in any case. Called with mmu_lock
 *		 held for write, which keeps everybody else from the S-EPT, with
 *		 the folio locks and preemption disabled; does not sleep or
 *		 allocate. At most %KVM_GFN_MOVE_BATCH moves. May be NULL: pages
 *		 of TDs do not move.
 * @bound: a range of the file now backs a memslot of @kvm, which is an opaque
 *	   cookie. The invalidate_lock is held exclusive. May be NULL.
 * @drop_kept: the range is part of a memslot that is about to be unbound, and whose
 *	       VM maps nothing of it any more. A folio in the range that has
 *	       PG_reserved set is one that KVM could not take back: it leaves the
 *	       file here, as it is. The invalidate_lock is held exclusive, but not
 *	       from one part of the memslot to the next: who else wants the file does
 *	       not wait for all of them. May be NULL.
 * @unbound: the opposite of @bound.
 */
struct kvm_gmem_provider_ops {
	size_t size;
	size_t bindings_size;
	size_t host_size;
	struct module *owner;
	const struct file_operations *fops;
	struct kvm_gmem_bindings *(*bindings)(struct file *file);
	struct folio *(*get_folio)(struct file *file, pgoff_t index);
	struct file *(*create)(loff_t size);
	bool (*serves_private)(void);
	int (*relocate_td)(const struct kvm_gmem_td *td,
			   struct kvm_gfn_move *moves, unsigned int nr);
	void (*bound)(struct file *file, const struct kvm *kvm,
		      pgoff_t start, pgoff_t nr_pages);
	void (*drop_kept)(struct file *file, pgoff_t start, pgoff_t nr_pages);
	void (*unbound)(struct file *file, const struct kvm *kvm,
			pgoff_t start, pgoff_t nr_pages);
};

/**
 * struct kvm_gmem_host_ops - what KVM does for a provider
 * @size: sizeof(struct kvm_gmem_host_ops)
 * @unregister: the opposite of kvm_gmem_register_provider(). No file of the
 *		provider exists any more. May sleep.
 * @invalidate_start: unmap page offsets [@start, @end) of the file in every VM
 *		      and keep vCPUs from mapping them again. The caller holds
 *		      the invalidate_lock, shared or exclusive, until
 *		      @invalidate_end. May sleep, takes kvm->mmu_lock.
 * @invalidate_end: let vCPUs map the range again.
 * @relocate: stop every VM's use of each @src. The caller holds the
 *	      invalidate_lock (shared is enough) and the folio locks of all
 *	      folios; it puts @dst in the place of @src before it drops the lock
 *	      of @src, and copies the content where the result asks for it. vCPUs
 *	      that fault meanwhile wait for the folio lock. Returns 0 and a result
 *	      for each move, or an errno, in which case nothing has changed.
 *	      Callable from address_space_operations.migrate_folio: waits for no
 *	      lock but kvm->mmu_lock, and for no memory.
 */
struct kvm_gmem_host_ops {
	size_t size;
	void (*unregister)(const struct kvm_gmem_provider_ops *ops);
	void (*invalidate_start)(struct kvm_gmem_bindings *bindings,
				 pgoff_t start, pgoff_t end);
	void (*invalidate_end)(struct kvm_gmem_bindings *bindings,
			       pgoff_t start, pgoff_t end);
	int (*relocate)(struct kvm_gmem_bindings *bindings,
			struct kvm_gmem_move *moves, unsigned int nr);
};

/*
 * Offer files to KVM.  Stores KVM's side in @host before KVM makes use of the
 * offer.  Returns 0, or an errno: -EBUSY if there is a provider already, -EINVAL
 * if @ops is incomplete or of another size.  Exported to the module privmemfd; a
 * provider that also wants to work without it uses symbol_get().  May sleep.
 */
int kvm_gmem_register_provider(const struct kvm_gmem_provider_ops *ops,
			       const struct kvm_gmem_host_ops **host);

#endif /* _LINUX_KVM_GMEM_PROVIDER_H */
