/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The SEAMCALL instruction.
 */
#ifndef TDHOST_SEAMCALL_H
#define TDHOST_SEAMCALL_H

#include <linux/types.h>

#include "tdx_abi.h"

/**
 * struct tdx_regs - registers of a call, in and out
 *
 * RAX is the argument and the result of the functions.
 */
struct tdx_regs {
	u64 rcx;
	u64 rdx;
	u64 rbx;
	u64 rsi;
	u64 rdi;
	u64 r8;
	u64 r9;
	u64 r10;
	u64 r11;
	u64 r12;
	u64 r13;
	u64 r14;
	u64 r15;
};

/* The instruction, once. */
u64 tdx_seamcall_insn(u64 rax, struct tdx_regs *regs);

u64 tdx_seamcall(u64 rax, struct tdx_regs *regs);

/* tdx_call - a call without outputs, by its first operands. Any context. */
#define tdx_call(leaf, ...) \
	tdx_seamcall(leaf, &(struct tdx_regs){ __VA_ARGS__ })

/* Whether a status is of a kind, whatever the operand. */
static inline bool tdx_is(u64 status, u64 kind)
{
	return (status & TDX_STATUS_MASK) == kind;
}

/* Whether nobody answers. */
static inline bool tdx_is_absent(u64 status)
{
	return (status & TDX_SOFTWARE_ERROR) == TDX_SOFTWARE_ERROR;
}

int tdx_report(const char *what, u64 status);

#endif /* TDHOST_SEAMCALL_H */
