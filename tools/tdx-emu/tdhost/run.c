// SPDX-License-Identifier: GPL-2.0
/*
 * Running a vCPU until its guest has done what it was told.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/errno.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

#include <tdxemu_guest.h>

#include "seamcall.h"
#include "td.h"
#include "uapi_tdhost.h"

static int handle_fault(struct td *td, struct tdhost_run *run, u64 gpa)
{
	int ret;

	run->faults++;
	atomic64_inc(&td->count.faults);
	if (gpa >> PAGE_SHIFT >= td->nr_pages)
		return -EFAULT;
	/*
	 * Come back without having tried the guest: one that faults again and
	 * again at one place makes the module take the tree of the secure EPT for
	 * itself.
	 */
	for (;;) {
		ret = td_fault(td, gpa >> PAGE_SHIFT);
		if (ret != -EAGAIN)
			return ret;
		atomic64_inc(&td->count.retries);
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
}

/* What an exit of the guest asks for; 1 if it was a report. */
static int handle_exit(struct td *td, struct td_vcpu *vcpu, struct tdhost_run *run, u64 status,
		       const struct tdx_regs *regs)
{
	if (tdx_is(status, TDX_OPERAND_BUSY) || tdx_is(status, TDX_HOST_PRIORITY_BUSY_TIMEOUT))
		return 0;
	if (!tdx_is(status, TDX_SUCCESS)) {
		td_kill(td, "TDH.VP.ENTER");
		return tdx_report("TDH.VP.ENTER", status) ?: -EIO;
	}
	switch ((u32)status) {
	case TDX_EXIT_INTERRUPT:
		return 0;
	case TDX_EXIT_EPT_VIOLATION:
		return handle_fault(td, run, regs->r8);
	case TDX_EXIT_TDCALL:
		vcpu->listens = true;
		run->done = regs->r12;
		run->mismatches = regs->r13;
		run->mismatch_gpa = regs->r14;
		run->report = regs->r15;
		return 1;
	default:
		td_kill(td, "unknown exit");
		return -EIO;
	}
}

static int enter_until_report(struct td *td, struct td_vcpu *vcpu, struct tdhost_run *run,
			      bool command)
{
	struct tdx_regs regs;
	u64 status;
	int ret;

	for (;;) {
		if (signal_pending(current))
			return -EINTR;
		if (READ_ONCE(td->dead))
			return -EIO;
		regs = (struct tdx_regs){ .rcx = vcpu->tdvpr };
		if (command) {
			regs.r12 = run->command;
			regs.r13 = run->gpa;
			regs.r14 = run->pages;
			regs.r15 = run->arg;
		}
		status = vcpu_enter(td, vcpu, &regs);
		run->entries++;
		/* A busy vCPU has not entered, and not taken the command. */
		if (!tdx_is(status, TDX_OPERAND_BUSY)) {
			command = false;
			vcpu->listens = false;
		}
		ret = handle_exit(td, vcpu, run, status, &regs);
		if (ret)
			return ret < 0 ? ret : 0;
		cond_resched();
	}
}

/**
 * vcpu_run - give the guest a command and wait for its report
 * @td: the TD
 * @run: the request
 *
 * Context: May sleep.
 * Return: 0, or an errno, see TDHOST_RUN.
 */
int vcpu_run(struct td *td, struct tdhost_run *run)
{
	struct td_vcpu *vcpu;
	int ret;

	if (run->vcpu >= td->nr_vcpus)
		return -ENOENT;
	if (!READ_ONCE(td->gmem.runnable))
		return -EBUSY;
	vcpu = &td->vcpus[run->vcpu];
	if (mutex_lock_interruptible(&vcpu->mutex))
		return -EINTR;
	if (READ_ONCE(td->dead)) {
		ret = -EIO;
		goto unlock;
	}
	if (!run->command) {
		ret = vcpu->started && !vcpu->listens ?
		      enter_until_report(td, vcpu, run, false) : -ENOENT;
		goto unlock;
	}
	ret = 0;
	if (!vcpu->started) {
		/* The first thing that the guest does is to ask for a command. */
		ret = enter_until_report(td, vcpu, run, false);
		vcpu->started = true;
	}
	if (!ret)
		ret = vcpu->listens ? enter_until_report(td, vcpu, run, true) : -EBUSY;
unlock:
	mutex_unlock(&vcpu->mutex);
	return ret;
}
