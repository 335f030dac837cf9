# SPDX-License-Identifier: GPL-2.0
# Guest code. 64-bit mode, interrupts off, no stack, identity mapping.
# Runs wherever it is copied to. Every piece ends with hlt; the result is in rax.
.pushsection .rodata.vmm_guest, "a", @progbits
.balign 16

# Entry::Loop. rdi: own control block (offsets: guest.rs, enum Field).
.globl vmm_guest_start
vmm_guest_start:
	mov	r15, rdi
	mov	rdi, [r15 + 0x10]		# seed
	mov	rbp, [r15 + 0x18]		# stride
	mov	r14, [r15 + 0x38]		# bias
	movabs	r12, 0x9e3779b97f4a7c15		# HASH
	mov	rax, 4096			# r9: bytes of cells in a page
	xor	edx, edx
	div	rbp
	lea	r9, [rax * 8]
.Lround:
	test	qword ptr [r15 + 0x08], 1	# WRITE
	jz	.Lverify
	mov	r10, [r15 + 0x40]
	inc	r10
	mov	[r15 + 0x40], r10		# started
	mov	rsi, [r15 + 0x20]
	mov	rdx, [r15 + 0x28]
.Lwrite_page:
	cmp	rsi, rdx
	jae	.Lwritten
	cmp	qword ptr [r15], 0
	jne	.Lhalt
	lea	r8, [rsi + 4096]
	mov	rcx, rsi
.Lwrite_cell:
	mov	rax, rcx
	sub	rax, r14
	imul	rax, r12
	xor	rax, rdi
	shr	rax, 32
	shl	rax, 32
	or	rax, r10
	mov	[rcx], rax
	add	rcx, rbp
	cmp	rcx, r8
	jb	.Lwrite_cell
	mov	rsi, r8
	add	[r15 + 0x88], r9		# written
	jmp	.Lwrite_page
.Lwritten:
	mov	[r15 + 0x48], r10		# done

.Lverify:
	test	qword ptr [r15 + 0x08], 2	# VERIFY
	jz	.Lnext_round
	mov	ebx, 0x1000			# CTL_BASE
	mov	r13, [r15 + 0x30]		# blocks left
.Lverify_part:
	mov	rsi, [rbx + 0x20]
	mov	rdx, [rbx + 0x28]
.Lverify_page:
	cmp	rsi, rdx
	jae	.Lpart_verified
	cmp	qword ptr [r15], 0
	jne	.Lhalt
	mov	r10, [rbx + 0x48]		# oldest round that may be there
	xor	r11d, r11d			# newest round seen
	test	qword ptr [r15 + 0x08], 16	# ANY_ROUND
	jz	.Lbounded
	xor	r10d, r10d
.Lbounded:
	lea	r8, [rsi + 4096]
	mov	rcx, rsi
.Lverify_cell:
	mov	rax, rcx
	sub	rax, r14
	imul	rax, r12
	xor	rax, rdi
	shr	rax, 32				# hash that must be there
	mov	rsp, [rcx]			# a free register: there is no stack
	test	rsp, rsp
	jz	.Lzero
	mov	esi, esp			# round
	shr	rsp, 32
	cmp	rsp, rax
	jne	.Lbad
	cmp	rsi, r10
	jb	.Lbad
	cmp	rsi, r11
	cmova	r11, rsi
.Lnext_cell:
	add	rcx, rbp
	cmp	rcx, r8
	jb	.Lverify_cell
	mov	rsi, r8
	add	[r15 + 0x58], r9		# verified
	cmp	r11, [rbx + 0x40]		# a round that nobody began
	jbe	.Lverify_page
	lea	rcx, [r8 - 4096]
	mov	rax, r10
	mov	rsp, r11
	inc	qword ptr [r15 + 0x60]
	cmp	qword ptr [r15 + 0x70], 0
	jne	.Lverify_page
	mov	[r15 + 0x70], rcx
	mov	[r15 + 0x78], rsp
	mov	[r15 + 0x80], rax
	jmp	.Lverify_page
.Lpart_verified:
	add	rbx, 0x100			# CTL_STEP
	dec	r13
	jnz	.Lverify_part

.Lnext_round:
	inc	qword ptr [r15 + 0x50]		# rounds
	test	qword ptr [r15 + 0x08], 8	# ONCE
	jnz	.Lhalt
	cmp	qword ptr [r15], 0
	je	.Lround
.Lhalt:
	xor	eax, eax
	hlt
	jmp	.Lhalt

.Lzero:
	inc	qword ptr [r15 + 0x68]		# zeros
	test	qword ptr [r15 + 0x08], 4	# ALLOW_ZERO
	jnz	.Lnext_cell
.Lbad:
	inc	qword ptr [r15 + 0x60]		# mismatches
	cmp	qword ptr [r15 + 0x70], 0
	jne	.Lnext_cell
	mov	[r15 + 0x70], rcx
	mov	rsp, [rcx]			# may have changed since
	mov	[r15 + 0x78], rsp
	shl	rax, 32
	or	rax, r10
	mov	[r15 + 0x80], rax
	jmp	.Lnext_cell

# Entry::Read. rdi: address.
.globl vmm_guest_read
vmm_guest_read:
	mov	rax, [rdi]
	hlt
	jmp	vmm_guest_read

# Entry::Write. rdi: address, rsi: value.
.globl vmm_guest_write
vmm_guest_write:
	mov	[rdi], rsi
	xor	eax, eax
	hlt
	jmp	vmm_guest_write

# Entry::Count. rdi: start, rsi: end, rdx: step.
.globl vmm_guest_count
vmm_guest_count:
	xor	eax, eax
.Lcount:
	xor	ecx, ecx
	cmp	qword ptr [rdi], 0
	setne	cl
	add	rax, rcx
	add	rdi, rdx
	cmp	rdi, rsi
	jb	.Lcount
	hlt
	jmp	vmm_guest_count

# Entry::Leave. rdi: own control block.
.globl vmm_guest_leave
vmm_guest_leave:
	xor	eax, eax
	xor	ecx, ecx
	cpuid
	inc	qword ptr [rdi + 0x40]		# started
	cmp	qword ptr [rdi], 0
	je	vmm_guest_leave
	hlt
	jmp	vmm_guest_leave

.globl vmm_guest_end
vmm_guest_end:
.popsection
