# SPDX-License-Identifier: GPL-2.0
# Guest code of a TD. Offsets of the control block: guest.rs, enum Field.
.pushsection .rodata.td_guest, "a", @progbits
.balign 16

# Where a TD vCPU starts: flat 32-bit protected mode, esi = index of the vCPU.
# Runs in the reset page.
.code32
.globl td_guest_boot
td_guest_boot:
	mov	eax, cr4
	or	eax, 0x20			# PAE
	mov	cr4, eax
	mov	eax, 0x1000			# PML4
	mov	cr3, eax
	.byte	0x0f, 0x01, 0x15		# lgdt [GDTR]
	.long	0x8f00
	mov	eax, cr0
	or	eax, 0x80000000			# PG; EFER.LME is set
	mov	cr0, eax
	.byte	0xea				# jmp CODE_SELECTOR:CODE
	.long	0x10000
	.word	8

# Runs at CODE. rbp: control block of this vCPU, in shared memory.
.code64
.balign 16
.globl td_guest_main
td_guest_main:
	mov	eax, 16				# DATA_SELECTOR
	mov	ds, eax
	mov	es, eax
	mov	ss, eax
	mov	ebx, esi
	shl	rbx, 12
	lea	rsp, [rbx + 0xa000]		# top of STACKS
	lidt	[0x8f10]			# IDTR
	movabs	rbp, 0x280000000		# CONTROL, through the shared alias
	add	rbp, rbx
.Ldone:
	# TDG.VP.VMCALL, I/O: write 4 bytes of the command's number to PORT.
	xor	r10d, r10d
	mov	r11d, 30
	mov	r12d, 4
	mov	r13d, 1
	mov	r14d, 0x100
	mov	r15, [rbp]
	call	.Lvmcall
	mov	rax, [rbp]
	mov	rdi, [rbp + 0x08]
	mov	rsi, [rbp + 0x10]
	mov	rdx, [rbp + 0x18]
	cmp	rax, 14
	ja	.Ldone
	lea	rbx, [rip + .Lcommands]
	movsxd	rax, dword ptr [rbx + rax * 4]
	add	rax, rbx
	jmp	rax
.balign 4
.Lcommands:
	.long	.Ldone - .Lcommands
	.long	.Laccept - .Lcommands
	.long	.Lloop - .Lcommands
	.long	.Lfill - .Lcommands
	.long	.Lverify - .Lcommands
	.long	.Lmap_gpa - .Lcommands
	.long	.Lexceptions - .Lcommands
	.long	.Lcall_module - .Lcommands
	.long	.Lread - .Lcommands
	.long	.Lwrite - .Lcommands
	.long	.Lspin - .Lcommands
	.long	.Lcpuid - .Lcommands
	.long	.Lcall_host - .Lcommands
	.long	.Lshut_down - .Lcommands
	.long	.Lfault - .Lcommands

.Lvmcall:
	xor	eax, eax
	mov	ecx, 0xfc00			# r10 to r15
	.byte	0x66, 0x0f, 0x01, 0xcc
	ret

# Command::Accept: pages from rdi up to rsi. Counts pages that were accepted
# already as good.
.Laccept:
	cmp	rdi, rsi
	jae	.Lsuccess
	mov	eax, 6				# TDG.MEM.PAGE.ACCEPT, 4 KiB
	mov	rcx, rdi
	.byte	0x66, 0x0f, 0x01, 0xcc
	test	rax, rax
	jz	.Laccepted
	mov	rcx, rax
	shr	rcx, 32
	cmp	ecx, 0x0b0a
	jne	.Lresult
	inc	qword ptr [rbp + 0x58]		# already
.Laccepted:
	add	rdi, 4096
	jmp	.Laccept

.Lsuccess:
	xor	eax, eax
.Lresult:
	mov	[rbp + 0x20], rax
	jmp	.Ldone

# The cell of round r9 at rdi, to rax.
.Lcell:
	movabs	rax, 0x9e3779b97f4a7c15
	imul	rax, rdi
	add	rax, r9
	ret

# Counts rax, which should have been rcx, at rdi.
.Lwrong:
	cmp	qword ptr [rbp + 0x38], 0
	jne	.Lcounted
	mov	[rbp + 0x40], rdi
	mov	[rbp + 0x48], rax
	mov	[rbp + 0x50], rcx
.Lcounted:
	inc	qword ptr [rbp + 0x38]
	ret

# Command::Loop: cells from rdi up to rsi hold round 0; in each round verify
# the last and write the next, until told to stop. If told to, interrupts itself
# before each, by the APIC (1) or by INT (2).
.Lloop:
	xor	r9d, r9d
	cmp	qword ptr [rbp + 0x80], 0
	je	.Lround
	sti
.Lround:
	mov	rdi, [rbp + 0x08]
.Lstep:
	cmp	qword ptr [rbp + 0x80], 0
	je	.Lquiet
	inc	qword ptr [rbp + 0xe0]
	cmp	qword ptr [rbp + 0x80], 1
	jne	.Lsoftware
	mov	r10, rdx
	mov	ecx, 0x83f			# x2APIC self IPI
	mov	eax, 0x40			# INTERRUPT_VECTOR
	xor	edx, edx
	wrmsr
	mov	rdx, r10
	jmp	.Lquiet
.Lsoftware:
	int	0x41				# SOFTWARE_VECTOR
.Lquiet:
	call	.Lcell
	mov	rcx, rax
	mov	rax, [rdi]
	cmp	rax, rcx
	je	.Lnext
	call	.Lwrong
.Lnext:
	inc	rcx
	mov	[rdi], rcx
	inc	qword ptr [rbp + 0x70]		# cells
	add	rdi, rdx
	test	edi, 0xfff
	jnz	.Lstep
	cmp	qword ptr [rbp + 0x28], 0	# stop
	jne	.Lstopped
	cmp	rdi, rsi
	jb	.Lstep
	inc	r9
	mov	[rbp + 0x30], r9		# rounds
	jmp	.Lround
.Lstopped:
	cli
	mov	[rbp + 0x08], rdi		# where the next round ends
	jmp	.Lsuccess

# Command::Fill: cells from rdi up to rsi, step rdx, get round 0.
.Lfill:
	xor	r9d, r9d
.Lfill_cell:
	call	.Lcell
	mov	[rdi], rax
	add	rdi, rdx
	cmp	rdi, rsi
	jb	.Lfill_cell
	jmp	.Lsuccess

# Command::Verify: the same cells hold round 0.
.Lverify:
	xor	r9d, r9d
.Lverify_cell:
	call	.Lcell
	mov	rcx, rax
	mov	rax, [rdi]
	cmp	rax, rcx
	je	.Lgood
	call	.Lwrong
.Lgood:
	inc	qword ptr [rbp + 0x70]
	add	rdi, rdx
	cmp	rdi, rsi
	jb	.Lverify_cell
	jmp	.Lsuccess

# Command::MapGpa: rdi bytes... address (with the shared bit or without), rsi
# size.
.Lmap_gpa:
	xor	r10d, r10d
	mov	r11d, 0x10001
	mov	r12, rdi
	mov	r13, rsi
	xor	r14d, r14d
	xor	r15d, r15d
	call	.Lvmcall
	mov	rax, r10
	jmp	.Lresult

# Command::Exceptions: what a TD may not do itself.
.Lexceptions:
	hlt
	mov	eax, 0x40000000
	cpuid
	mov	ecx, 0x1b
	rdmsr
	mov	dx, 0x71
	in	al, dx
	mov	eax, 0x21			# the module's own leaf
	xor	ecx, ecx
	cpuid
	mov	eax, ebx
	jmp	.Lresult

# Command::CallModule: TDCALL with rax = rdi, rcx = rsi, rdx, and r8 and r9 from the control
# block, which gets what is there then.
.Lcall_module:
	mov	rax, rdi
	mov	rcx, rsi
	mov	r8, [rbp + 0x80]
	mov	r9, [rbp + 0x88]
	.byte	0x66, 0x0f, 0x01, 0xcc
	mov	[rbp + 0xa0], rcx
	mov	[rbp + 0xa8], rdx
	mov	[rbp + 0xb0], r8
	mov	[rbp + 0xb8], r9
	jmp	.Lresult

.Lread:
	mov	rax, [rdi]
	jmp	.Lresult
.Lwrite:
	mov	[rdi], rsi
	jmp	.Lsuccess

# Command::Spin: rdi hypercalls that need nothing of user space.
.Lspin:
	xor	r10d, r10d
	mov	r11d, 0x10000			# GetTdVmCallInfo
	xor	r12d, r12d
	call	.Lvmcall
	dec	rdi
	jnz	.Lspin
	jmp	.Lsuccess

# Command::Cpuid: leaf rdi, subleaf rsi; eax, ebx, ecx and edx to the control block.
.Lcpuid:
	mov	eax, edi
	mov	ecx, esi
	cpuid
	mov	[rbp + 0xa0], rax
	mov	[rbp + 0xa8], rbx
	mov	[rbp + 0xb0], rcx
	mov	[rbp + 0xb8], rdx
	jmp	.Lsuccess

# Command::CallHost: TDG.VP.VMCALL with r10 = rdi, r11 = rsi and the rest from the
# control block, which gets what the host answers. Takes interrupts meanwhile if
# rdx is set.
.Lcall_host:
	mov	r10, rdi
	mov	r11, rsi
	mov	r12, [rbp + 0x80]
	mov	r13, [rbp + 0x88]
	mov	r14, [rbp + 0x90]
	mov	r15, [rbp + 0x98]
	xor	eax, eax
	mov	ecx, 0xfc00
	test	edx, edx
	jz	.Lcall_now
	sti
.Lcall_now:
	.byte	0x66, 0x0f, 0x01, 0xcc
	nop					# time for what has come meanwhile
	nop
	nop
	nop
	cli
	mov	[rbp + 0xa0], r10
	mov	[rbp + 0xa8], r11
	mov	[rbp + 0xb0], r12
	mov	[rbp + 0xb8], r13
	mov	[rbp + 0xc0], r14
	mov	[rbp + 0xc8], r15
	jmp	.Lresult

# Command::ShutDown: an exception without an IDT.
.Lshut_down:
	push	0
	push	0
	lidt	[rsp]
	ud2

# Command::Fault: instruction rsi with CPL rdi, 0 or 3, and with operand rdx at CPL 0.
.Lfault:
	shl	esi, 5
	lea	r14, [rip + .Linstructions]
	add	r14, rsi
	xor	eax, eax
	xor	ecx, ecx
	test	edi, edi
	jnz	.Luser
	jmp	r14
.Luser:
	mov	[0x8f64], rsp			# TSS: RSP0
	and	byte ptr [0x8f4d], 0xfd		# not busy
	mov	edx, 0x28			# TSS_SELECTOR
	ltr	dx
	mov	rdx, rsp
	push	0x23				# USER_DATA_SELECTOR
	push	rdx
	pushfq
	push	0x1b				# USER_CODE_SELECTOR
	push	r14
	iretq
# enum Instruction. If there is no fault: to .Lsuccess, or with a result.
.balign 32
.Linstructions:
	.byte	0x66, 0x0f, 0x01, 0xcc		# tdcall, TDG.VP.VMCALL
	jmp	.Lsuccess
.balign 32
	.byte	0x66, 0x0f, 0x01, 0xcf		# seamcall
	jmp	.Lsuccess
.balign 32
	rdpmc
	jmp	.Lsuccess
.balign 32
	vmcall
	jmp	.Lsuccess
.balign 32
	vmxoff
	jmp	.Lsuccess
.balign 32
	mwait
	jmp	.Lsuccess
.balign 32
	mov	rax, [rdx]
	jmp	.Lresult
.balign 32
	mov	r15, rdx
	mov	ecx, 0xc0000080			# EFER
	rdmsr
	xor	eax, r15d
	wrmsr
	rdmsr
	jmp	.Lresult
.balign 32
	mov	eax, edx
	xor	edx, edx
	mov	ecx, 0x48			# SPEC_CTRL
	wrmsr
	jmp	.Lsuccess
.balign 32
	mov	ecx, 0x48
	rdmsr
	jmp	.Lresult
.balign 32
.Lvmcalls:
	vmcall
	dec	rdx
	jnz	.Lvmcalls
	jmp	.Lsuccess
.balign 32
	jmp	.Lread_only
.balign 32
	jmp	.Lmasked

# Instruction::WriteReadOnly: CR0.WP is clear.
.Lread_only:
	mov	rcx, rdx
	shr	rcx, 18
	and	ecx, -8
	and	byte ptr [rcx + 0x3000], 0xbd	# its leaf in PRIVATE_PD: neither writable nor dirty
	invlpg	[rdx]
	mov	[rdx], rdx
	movzx	eax, byte ptr [rcx + 0x3000]
	or	byte ptr [rcx + 0x3000], 2
	invlpg	[rdx]
	jmp	.Lresult

# Instruction::MaskedInterrupt.
.Lmasked:
	mov	r10, rdx
	mov	ecx, 0x83f			# x2APIC self IPI
	mov	eax, 0x40			# INTERRUPT_VECTOR
	xor	edx, edx
	wrmsr
.Lstill_masked:
	dec	r10
	jnz	.Lstill_masked
	mov	rax, [rbp + 0xd0]
	sti
	nop
	nop
	cli
	jmp	.Lresult
