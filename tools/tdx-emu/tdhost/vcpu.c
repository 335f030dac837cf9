// SPDX-License-Identifier: GPL-2.0
/*
 * vCPUs: which CPU they belong to, and how they are made to leave the guest.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/irqflags.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/smp.h>

#include "seamcall.h"
#include "sys.h"
#include "td.h"

/**
 * vcpu_create - make a vCPU, before the TD is finalized
 * @td: the TD
 * @id: number of the vCPU, and its APIC id
 *
 * Context: May sleep.
 * Return: 0, -ENOMEM, -EIO.
 */
int vcpu_create(struct td *td, unsigned int id)
{
	struct td_vcpu *vcpu = &td->vcpus[id];
	unsigned int i;
	u64 pa;
	int ret;

	ret = td_give_control_page(td, &vcpu->tdvpr);
	if (ret)
		return ret;
	ret = tdx_report("TDH.VP.CREATE",
			 tdx_call(TDH_VP_CREATE, .rcx = vcpu->tdvpr, .rdx = td->gmem.tdr));
	for (i = 1; !ret && i < tdx_tdvps_pages(); i++) {
		ret = td_give_control_page(td, &pa);
		if (!ret)
			ret = tdx_report("TDH.VP.ADDCX",
					 tdx_call(TDH_VP_ADDCX, .rcx = pa, .rdx = vcpu->tdvpr));
	}
	if (ret)
		return ret;
	/* The vCPU then is associated with this CPU. */
	preempt_disable();
	ret = tdx_report("TDH.VP.INIT",
			 tdx_call(TDH_VP_INIT | TDX_VERSION_1, .rcx = vcpu->tdvpr, .r8 = id));
	if (!ret)
		vcpu->cpu = smp_processor_id();
	preempt_enable();
	return ret;
}

static void flush_here(void *data)
{
	struct td_vcpu *vcpu = data;
	u64 status = tdx_call(TDH_VP_FLUSH, .rcx = vcpu->tdvpr);

	if (!tdx_is(status, TDX_VCPU_NOT_ASSOCIATED))
		tdx_report("TDH.VP.FLUSH", status);
}

/* vcpu_flush - dissociate a vCPU from its CPU. It is not inside. */
void vcpu_flush(struct td_vcpu *vcpu)
{
	if (vcpu->cpu < 0)
		return;
	smp_call_function_single(vcpu->cpu, flush_here, vcpu, 1);
	WRITE_ONCE(vcpu->cpu, -1);
}

static void left(void *unused)
{
	/* The interrupt came through: this CPU is not in the guest. */
}

static void kick(struct td *td)
{
	unsigned int i;

	cpumask_clear(td->kick_mask);
	/* Pairs with that in vcpu_enter(): what was done before is seen inside. */
	smp_mb();
	for (i = 0; i < td->nr_vcpus; i++)
		if (READ_ONCE(td->vcpus[i].inside))
			cpumask_set_cpu(READ_ONCE(td->vcpus[i].cpu), td->kick_mask);
	smp_call_function_many(td->kick_mask, left, NULL, true);
}

/* td_kick - see struct kvm_gmem_td. Also for own use, with td->lock for write. */
void td_kick(const struct kvm_gmem_td *gmem)
{
	struct td *td = to_td(gmem);

	lockdep_assert_held_write(&td->lock);
	atomic64_inc(&td->count.kicks);
	kick(td);
}

void td_hold(const struct kvm_gmem_td *gmem)
{
	struct td *td = to_td(gmem);

	lockdep_assert_held_write(&td->lock);
	atomic64_inc(&td->count.holds);
	WRITE_ONCE(td->hold, true);
	kick(td);
}

void td_release(const struct kvm_gmem_td *gmem)
{
	struct td *td = to_td(gmem);

	lockdep_assert_held_write(&td->lock);
	WRITE_ONCE(td->hold, false);
}

/**
 * vcpu_enter - enter the guest once
 * @td: the TD
 * @vcpu: the vCPU; its mutex is held
 * @regs: in and out
 *
 * The guest runs with interrupts off, so whoever has sent an interrupt knows when
 * it was received that this CPU has left the guest since, or will see what was
 * written before.
 *
 * Context: May sleep.
 * Return: RAX.
 */
u64 vcpu_enter(struct td *td, struct td_vcpu *vcpu, struct tdx_regs *regs)
{
	u64 status;

	for (;;) {
		preempt_disable();
		if (vcpu->cpu != smp_processor_id()) {
			vcpu_flush(vcpu);
			WRITE_ONCE(vcpu->cpu, smp_processor_id());
		}
		local_irq_disable();
		WRITE_ONCE(vcpu->inside, true);
		/* Pairs with that in kick(). */
		smp_mb();
		if (!READ_ONCE(td->hold))
			break;
		WRITE_ONCE(vcpu->inside, false);
		local_irq_enable();
		preempt_enable();
		atomic64_inc(&td->count.waits);
		/* Whoever keeps us out holds the lock. */
		read_lock(&td->lock);
		read_unlock(&td->lock);
	}
	status = tdx_seamcall(TDH_VP_ENTER, regs);
	WRITE_ONCE(vcpu->inside, false);
	local_irq_enable();
	preempt_enable();
	atomic64_inc(&td->count.entries);
	return status;
}
