// SPDX-License-Identifier: GPL-2.0
/*
 * Calls of the TDX module.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/errno.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/stddef.h>

#include "seamcall.h"

/* How often a call may find no entropy; as for RDRAND. */
#define ENTROPY_TRIES 10

static_assert(offsetof(struct tdx_regs, rcx) == 0);
static_assert(offsetof(struct tdx_regs, rsi) == 24);
static_assert(offsetof(struct tdx_regs, r8) == 40);
static_assert(offsetof(struct tdx_regs, r15) == 96);

/**
 * tdx_seamcall - call the TDX module
 * @rax: leaf number, and its version in bits 23:16
 * @regs: inputs, then outputs
 *
 * Repeats a call that found no entropy. A busy one is the caller's business.
 *
 * Context: Any, but that of a NMI.
 * Return: the status; %TDX_SOFTWARE_ERROR is set if nobody has answered.
 */
u64 tdx_seamcall(u64 rax, struct tdx_regs *regs)
{
	const struct tdx_regs in = *regs;
	unsigned int try = 0;
	u64 status;

	do {
		*regs = in;
		preempt_disable();
		status = tdx_seamcall_insn(rax, regs);
		preempt_enable();
	} while (tdx_is(status, TDX_RND_NO_ENTROPY) && ++try < ENTROPY_TRIES);
	return status;
}

/**
 * tdx_report - say that a call has failed, and what errno that is
 * @what: name of the leaf
 * @status: what it returned
 *
 * Return: 0 for success. -EAGAIN if it was busy, which is not worth a message;
 * -ENODEV if there is no TDX module, -EIO for anything else.
 */
int tdx_report(const char *what, u64 status)
{
	if (tdx_is(status, TDX_SUCCESS))
		return 0;
	if (tdx_is(status, TDX_OPERAND_BUSY) || tdx_is(status, TDX_SYS_BUSY))
		return -EAGAIN;
	pr_err("%s: status %#llx\n", what, status);
	return tdx_is_absent(status) ? -ENODEV : -EIO;
}
