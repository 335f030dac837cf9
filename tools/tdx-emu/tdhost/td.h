/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A TD and its vCPUs.
 *
 * Lock order, outermost first:
 *
 *   vcpu->mutex
 *     mapping->invalidate_lock of the TD's file
 *       folio lock
 *         td->lock
 *
 * td->lock is what mmu_lock is to KVM: whoever holds it for write is alone with
 * the secure EPT; faults hold it for read.
 */
#ifndef TDHOST_TD_H
#define TDHOST_TD_H

#include <linux/atomic.h>
#include <linux/container_of.h>
#include <linux/cpumask.h>
#include <linux/kvm_gmem_provider.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/xarray.h>

struct file;
struct folio;
struct page;
struct tdhost_create;
struct tdhost_run;
struct tdx_regs;

/* A page frame number in td->pfns that says: a fault is just mapping one. */
#define TD_PFN_FROZEN (~0UL)

/**
 * struct td_counters - what has happened, see struct tdhost_stat
 */
struct td_counters {
	atomic64_t batches;
	atomic64_t moved;
	atomic64_t refused;
	atomic64_t kicks;
	atomic64_t holds;
	atomic64_t waits;
	atomic64_t faults;
	atomic64_t entries;
	atomic64_t retries;
	atomic64_t removed;
};

/**
 * struct td_vcpu - a virtual processor
 * @mutex: serialises the tasks that want to run it
 * @tdvpr: physical address of its TDVPR page
 * @cpu: CPU that it is associated with, or -1; changes under @mutex
 * @inside: it is in the guest, or about to enter, on @cpu, with interrupts off
 * @started: it has been in the guest
 * @listens: its last exit was a report: it takes a command at the next entry
 */
struct td_vcpu {
	struct mutex mutex; /* of the task that runs it */
	u64 tdvpr;
	int cpu;
	bool inside;
	bool started;
	bool listens;
};

/**
 * struct td - a TD
 * @gmem: as the backend knows it; @gmem.runnable changes under @lock
 * @lock: see above
 * @seq: changes with every invalidation and relocation; under @lock
 * @invalidating: invalidations that have begun and not ended; under @lock
 * @invalid_start: first page that is being invalidated
 * @invalid_end: page after the last one
 * @hold: no vCPU may enter; under @lock
 * @dead: the TD is lost, no vCPU may enter and no page may move
 * @kick_mask: for kicks; under @lock
 * @file: its memory
 * @bindings: identifies @file to the provider
 * @nr_pages: pages of its memory
 * @pfns: the frame that each page has in the secure EPT, 0 for none; a fault
 *	  goes from 0 to %TD_PFN_FROZEN and on with @lock held for read, all else
 *	  happens with @lock held for write
 * @kept: pages that could not be taken back, by frame: one of KVM_GFN_MOVE_SRC_*
 * @control: pages that the module has for its own use, TDR first
 * @nr_control: how many
 * @debug: the TD is debuggable
 * @nr_vcpus: number of @vcpus
 * @vcpus: the vCPUs
 * @count: statistics
 */
struct td {
	struct kvm_gmem_td gmem;
	rwlock_t lock;
	unsigned long seq;
	unsigned int invalidating;
	unsigned long invalid_start;
	unsigned long invalid_end;
	bool hold;
	bool dead;
	cpumask_var_t kick_mask;

	struct file *file;
	struct kvm_gmem_bindings *bindings;
	unsigned long nr_pages;
	unsigned long *pfns;
	struct xarray kept;

	struct page **control;
	unsigned int nr_control;
	bool debug;
	unsigned int nr_vcpus;
	struct td_vcpu *vcpus;
	struct td_counters count;
};

/* td.c */
struct td *td_create(const struct tdhost_create *arg);
void td_destroy(struct td *td);
int td_finalize(struct td *td);
int td_give_control_page(struct td *td, u64 *pa);

/* memory.c */
int td_build_sept(struct td *td);
int td_add_page(struct td *td, unsigned long index, u64 seed);
int td_fault(struct td *td, unsigned long index);
void td_zap(struct td *td, unsigned long start, unsigned long end);
void td_keep_page(struct td *td, unsigned long pfn, unsigned int why);
void td_reclaim_kept(struct td *td);
void td_leak_kept(struct td *td);
int td_read(struct td *td, u64 gpa, u64 *value);
int td_sept(struct td *td, unsigned long index, u64 *entry, u64 *info, unsigned long *mirror);
u64 td_leaked(void);
void td_count_leak(const char *what, u64 pa);
void td_kill(struct td *td, const char *why);

/* vcpu.c */
int vcpu_create(struct td *td, unsigned int id);
void vcpu_flush(struct td_vcpu *vcpu);
void td_kick(const struct kvm_gmem_td *gmem);
void td_hold(const struct kvm_gmem_td *gmem);
void td_release(const struct kvm_gmem_td *gmem);
u64 vcpu_enter(struct td *td, struct td_vcpu *vcpu, struct tdx_regs *regs);

/* run.c */
int vcpu_run(struct td *td, struct tdhost_run *run);

/* host.c */
extern const struct kvm_gmem_provider_ops *provider;
int host_register(void);
void host_unregister(void);
int host_bind(struct td *td);
void host_unbind(struct td *td);

static inline struct td *to_td(const struct kvm_gmem_td *gmem)
{
	return container_of(gmem, struct td, gmem);
}

#endif /* TDHOST_TD_H */
