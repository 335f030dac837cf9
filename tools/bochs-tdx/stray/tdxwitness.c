// SPDX-License-Identifier: GPL-2.0
/*
 * tdxwitness.ko - what KVM's TDX code does that a TD cannot see
 *
 * Probes in KVM and in the kernel's SEAMCALLs. Parameters that count:
 *
 *   exclusive		calls of TDH.MR.EXTEND and TDH.MR.FINALIZE, which take the
 *			TDR for exclusive use; each lasts linger_us longer, the latter,
 *			of which there is one for each TD, FINALIZE_LINGERS times that
 *   overlaps		moves of pages of a TD that have begun during one of those
 *   provider_calls	moves of pages of a TD
 *   unprepared		those before which the kernel has made no SEAMCALL of its own on
 *			the same CPU, or in which preemption was not disabled for them
 *   invalidations	pages of which KVM has told the architecture that they go away
 *			(-1: this KVM does not)
 *
 * Parameters that have something happen:
 *
 *   exchange		as many lists of moves name, as long as KVM looks at them, the
 *			page of the second move as that of the first and vice versa
 *   rebooting		KVM takes the host for one that reboots
 *   faulting		SEAMCALL faults where KVM blocks a page
 *   notify		all CPUs are told that an interrupt was posted, which none was
 */
#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/kvm_gmem_provider.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/ptrace.h>
#include <linux/sysfs.h>

#include <asm/apic.h>
#include <asm/irq_vectors.h>
#include <asm/tdx.h>

static atomic_t exclusive, overlaps, provider_calls, unprepared, invalidations, exchange;
static bool faulting;
static unsigned int linger_us;

static int count_set(const char *val, const struct kernel_param *kp)
{
	int number;

	if (kstrtoint(val, 0, &number))
		return -EINVAL;
	atomic_set(kp->arg, number);
	return 0;
}

static int count_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(kp->arg));
}

static const struct kernel_param_ops count_ops = {
	.set = count_set,
	.get = count_get,
};

module_param_cb(exclusive, &count_ops, &exclusive, 0600);
module_param_cb(overlaps, &count_ops, &overlaps, 0600);
module_param_cb(provider_calls, &count_ops, &provider_calls, 0600);
module_param_cb(unprepared, &count_ops, &unprepared, 0600);
module_param_cb(invalidations, &count_ops, &invalidations, 0600);
module_param_cb(exchange, &count_ops, &exchange, 0600);
module_param(faulting, bool, 0600);
module_param(linger_us, uint, 0600);

/* Exported to KVM's own modules alone. */
static bool *host_reboots;

static int rebooting_set(const char *val, const struct kernel_param *kp)
{
	return kstrtobool(val, host_reboots);
}

static const struct kernel_param_ops rebooting_ops = {
	.set = rebooting_set,
};

module_param_cb(rebooting, &rebooting_ops, NULL, 0200);

static int notify_set(const char *val, const struct kernel_param *kp)
{
	__apic_send_IPI_mask(cpu_online_mask, POSTED_INTR_VECTOR);
	return 0;
}

static const struct kernel_param_ops notify_ops = {
	.set = notify_set,
};

module_param_cb(notify, &notify_ops, NULL, 0200);

/* --- calls that take the TDR for exclusive use */

#define FINALIZE_LINGERS	50

static atomic_t under_way;

static void exclusive_begins(unsigned int times)
{
	atomic_inc(&exclusive);
	atomic_inc(&under_way);
	while (times--)
		udelay(READ_ONCE(linger_us));
}

static int extend_begins(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	exclusive_begins(1);
	return 0;
}

static int finalize_begins(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	exclusive_begins(FINALIZE_LINGERS);
	return 0;
}

static int exclusive_ends(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	atomic_dec(&under_way);
	return 0;
}

static struct kretprobe extend_probe = {
	.kp.symbol_name = "tdh_mr_extend",
	.entry_handler = extend_begins,
	.handler = exclusive_ends,
};

static struct kretprobe finalize_probe = {
	.kp.symbol_name = "tdh_mr_finalize",
	.entry_handler = finalize_begins,
	.handler = exclusive_ends,
};

/* --- what KVM does before it has the provider move pages */

struct preparation {
	bool begun, called;
	int depth;
};

static DEFINE_PER_CPU(struct preparation, preparation);

static int preempt_depth(void)
{
	return preempt_count() & PREEMPT_MASK;
}

static int move_begins(struct kprobe *probe, struct pt_regs *regs)
{
	struct preparation *mine = this_cpu_ptr(&preparation);

	mine->begun = true;
	mine->called = false;
	mine->depth = preempt_depth();
	return 0;
}

static int kernel_calls(struct kprobe *probe, struct pt_regs *regs)
{
	this_cpu_ptr(&preparation)->called = true;
	return 0;
}

static int provider_called(struct kprobe *probe, struct pt_regs *regs)
{
	struct preparation *mine = this_cpu_ptr(&preparation);

	atomic_inc(&provider_calls);
	if (!mine->begun || !mine->called || preempt_depth() <= mine->depth)
		atomic_inc(&unprepared);
	mine->begun = false;
	if (atomic_read(&under_way))
		atomic_inc(&overlaps);
	return 0;
}

/* Keeps the probes from becoming jumps, in which preemption is as it was. */
static void nothing(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe begin_probe = {
	.symbol_name = "tdx_sept_relocate_private_sptes",
	.pre_handler = move_begins,
	.post_handler = nothing,
};

static struct kprobe call_probe = {
	.symbol_name = "tdh_mng_rd",
	.pre_handler = kernel_calls,
	.post_handler = nothing,
};

static struct kprobe provider_probe = {
	.symbol_name = "kvm_gmem_relocate_td",
	.pre_handler = provider_called,
	.post_handler = nothing,
};

/* --- what KVM tells the architecture */

static int told(struct kprobe *probe, struct pt_regs *regs)
{
	atomic_inc(&invalidations);
	return 0;
}

static struct kprobe invalidation_probe = {
	.symbol_name = "kvm_arch_gmem_invalidate_range",
	.pre_handler = told,
};

/* --- a mirror page table that says something else than the file */

struct exchanged {
	struct kvm_gmem_move *first, *second;
};

static int mirror_looks(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct kvm_gfn_move *moves = (void *)regs_get_kernel_argument(regs, 1);
	struct exchanged *pair = (void *)instance->data;

	if (regs_get_kernel_argument(regs, 2) < 2 || atomic_dec_if_positive(&exchange) < 0)
		return -ENOENT;
	pair->first = moves[0].move;
	pair->second = moves[1].move;
	swap(pair->first->src, pair->second->src);
	return 0;
}

static int mirror_has_looked(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct exchanged *pair = (void *)instance->data;

	swap(pair->first->src, pair->second->src);
	return 0;
}

static struct kretprobe mirror_probe = {
	.kp.symbol_name = "kvm_tdp_mmu_relocate_external",
	.entry_handler = mirror_looks,
	.handler = mirror_has_looked,
	.data_size = sizeof(struct exchanged),
};

/* --- a host that reboots: VMX is off, and SEAMCALL an invalid opcode */

static int page_is_blocked(struct kprobe *probe, struct pt_regs *regs)
{
	if (!READ_ONCE(faulting))
		return 0;
	/* As if the function had returned. */
	regs->ax = TDX_SEAMCALL_UD;
	regs->ip = *(unsigned long *)regs->sp;
	regs->sp += sizeof(unsigned long);
	return 1;
}

static struct kprobe block_probe = {
	.symbol_name = "tdh_mem_range_block",
	.pre_handler = page_is_blocked,
	.post_handler = nothing,
};

static struct kprobe *probes[] = { &begin_probe, &call_probe, &provider_probe, &block_probe };
static struct kretprobe *kretprobes[] = { &extend_probe, &finalize_probe, &mirror_probe };
static bool has_invalidations;

static int __init tdxwitness_init(void)
{
	int err;

	host_reboots = __symbol_get("virt_rebooting");
	if (!host_reboots)
		return -ENOENT;
	err = register_kprobes(probes, ARRAY_SIZE(probes));
	if (err)
		goto put;
	err = register_kretprobes(kretprobes, ARRAY_SIZE(kretprobes));
	if (err)
		goto unregister;
	has_invalidations = !register_kprobe(&invalidation_probe);
	if (!has_invalidations)
		atomic_set(&invalidations, -1);
	return 0;

unregister:
	unregister_kprobes(probes, ARRAY_SIZE(probes));
put:
	__symbol_put("virt_rebooting");
	return err;
}

static void __exit tdxwitness_exit(void)
{
	if (has_invalidations)
		unregister_kprobe(&invalidation_probe);
	unregister_kretprobes(kretprobes, ARRAY_SIZE(kretprobes));
	unregister_kprobes(probes, ARRAY_SIZE(probes));
	*host_reboots = false;
	__symbol_put("virt_rebooting");
}

module_init(tdxwitness_init);
module_exit(tdxwitness_exit);

MODULE_DESCRIPTION("Watches how KVM moves pages of TDs, and leads it astray");
MODULE_LICENSE("GPL");
