# SPDX-License-Identifier: GPL-2.0
# What a TD's guest code does with exceptions and interrupts. Goes on from guest.s.

# Invalid opcode, general protection and page fault: the end of Command::Fault, with
# the vector as its result; and the error code, where after the instruction it was,
# and the code segment. Whoever has not asked for it is shut down.
.balign 16
.globl td_guest_ud
td_guest_ud:
	push	0
	mov	eax, 6
	jmp	.Lfaulted
.balign 16
.globl td_guest_gp
td_guest_gp:
	mov	eax, 13
	jmp	.Lfaulted
.balign 16
.globl td_guest_pf
td_guest_pf:
	mov	eax, 14
.Lfaulted:
	cmp	qword ptr [rbp], 14		# of another command: an end, not a result
	jne	.Lshut_down
	pop	qword ptr [rbp + 0x40]
	pop	rcx
	sub	rcx, r14
	mov	[rbp + 0x48], rcx
	pop	qword ptr [rbp + 0x50]
	mov	ecx, 16				# DATA_SELECTOR
	mov	ss, ecx
	dec	rsp				# the top of its page
	or	rsp, 0xfff
	inc	rsp
	jmp	.Lresult

# Interrupt: counts it, writes EOI.
.balign 16
.globl td_guest_interrupt
td_guest_interrupt:
	push	rax
	push	rcx
	push	rdx
	inc	qword ptr [rbp + 0xd0]
	mov	ecx, 0x80b
	xor	eax, eax
	xor	edx, edx
	wrmsr
	pop	rdx
	pop	rcx
	pop	rax
	iretq

.balign 16
.globl td_guest_software
td_guest_software:
	inc	qword ptr [rbp + 0xd0]
	iretq

.balign 16
.globl td_guest_nmi
td_guest_nmi:
	inc	qword ptr [rbp + 0xd8]
	iretq

# Virtualization exception: counts it, then accepts the page or skips the
# instruction.
.balign 16
.globl td_guest_ve
td_guest_ve:
	push	rax
	push	rcx
	push	rdx
	push	r8
	push	r9
	push	r10
	mov	eax, 3				# TDG.VP.VEINFO.GET
	.byte	0x66, 0x0f, 0x01, 0xcc
	inc	qword ptr [rbp + 0x60]
	mov	[rbp + 0x68], rcx		# reason
	mov	[rbp + 0x78], r9		# address
	cmp	ecx, 48
	jne	.Lskip
	bt	r9, 47				# MMIO in shared memory
	jc	.Lskip
	mov	rcx, r9
	and	rcx, -4096
	mov	eax, 6
	.byte	0x66, 0x0f, 0x01, 0xcc
	jmp	.Lve_end
.Lskip:
	mov	r10d, r10d
	add	[rsp + 48], r10
.Lve_end:
	pop	r10
	pop	r9
	pop	r8
	pop	rdx
	pop	rcx
	pop	rax
	iretq

.globl td_guest_end
td_guest_end:
.popsection
