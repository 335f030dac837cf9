/* SPDX-License-Identifier: GPL-2.0 */
/*
 * u64 tdx_seamcall_insn(u64 rax, struct tdx_regs *regs);
 *
 * All registers of the structure go in and come out. Without a TDX module the
 * result is in the space of software errors: CF is set if there is none, #UD and
 * #GP if the processor cannot do it; the registers then say nothing.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/frame.h>

/* Offsets in struct tdx_regs; seamcall.c checks them. */
#define RCX 0
#define RDX 8
#define RBX 16
#define RSI 24
#define RDI 32
#define R8 40
#define R9 48
#define R10 56
#define R11 64
#define R12 72
#define R13 80
#define R14 88
#define R15 96

SYM_FUNC_START(tdx_seamcall_insn)
	FRAME_BEGIN
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rsi

	mov	%rdi, %rax
	mov	RCX(%rsi), %rcx
	mov	RDX(%rsi), %rdx
	mov	RBX(%rsi), %rbx
	mov	RDI(%rsi), %rdi
	mov	R8(%rsi), %r8
	mov	R9(%rsi), %r9
	mov	R10(%rsi), %r10
	mov	R11(%rsi), %r11
	mov	R12(%rsi), %r12
	mov	R13(%rsi), %r13
	mov	R14(%rsi), %r14
	mov	R15(%rsi), %r15
	mov	RSI(%rsi), %rsi

.Lseamcall:
	.byte	0x66, 0x0f, 0x01, 0xcf
	jnc	.Lanswered
	mov	$0x8000ff00ffff0000, %rax
.Lanswered:
	/* Any register may be an output; the structure's address is on the stack. */
	xchg	%rsi, (%rsp)
	mov	%rcx, RCX(%rsi)
	mov	%rdx, RDX(%rsi)
	mov	%rbx, RBX(%rsi)
	mov	%rdi, RDI(%rsi)
	mov	%r8, R8(%rsi)
	mov	%r9, R9(%rsi)
	mov	%r10, R10(%rsi)
	mov	%r11, R11(%rsi)
	mov	%r12, R12(%rsi)
	mov	%r13, R13(%rsi)
	mov	%r14, R14(%rsi)
	mov	%r15, R15(%rsi)
	pop	%rcx
	mov	%rcx, RSI(%rsi)

	/* No value of the guest is left for speculation. */
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	FRAME_END
	RET

.Ltrapped:
	/* RAX is the number of the trap. */
	mov	$0x8000ff0000000000, %rdi
	or	%rdi, %rax
	jmp	.Lanswered

	_ASM_EXTABLE_FAULT(.Lseamcall, .Ltrapped)
SYM_FUNC_END(tdx_seamcall_insn)
