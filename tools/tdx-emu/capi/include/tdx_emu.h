/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The TDX module model, for an emulator written in C or C++.
 *
 * Functions named tdx_emu_* are the model's. Functions named tdx_machine_* are
 * the emulator's; the model calls them while it carries out a call.
 */
#ifndef TDX_EMU_H
#define TDX_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* General purpose registers without RSP. */
struct tdx_regs {
	uint64_t rax, rcx, rdx, rbx, rbp, rsi, rdi;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
};

/* What firmware and CPU tell the module. */
struct tdx_platform {
	/* Physical address width, and how many bits of it are the KeyID. */
	uint32_t max_pa;
	uint32_t hkid_bits;
	/* First private KeyID; all above it are private. */
	uint32_t first_private_hkid;
	/* Number of logical processors. */
	uint32_t lps;
	/* Bytes of memory from address 0, all of it convertible. */
	uint64_t memory;
	/* Ticks of the time stamp counter per second. */
	uint64_t tsc_hz;
	/* Encrypt TD memory. */
	bool cipher;
};

/* The vCPU that is in the guest on a logical processor. */
struct tdx_vcpu_controls {
	uint64_t tdr, tdvpr;
	uint64_t hkid;
	/* Bit of a guest physical address that means "shared". */
	uint64_t shared_bit;
	uint64_t eptp, shared_eptp;
	uint64_t posted_vector;
	/* 0: no posted interrupts. */
	uint64_t posted_descriptor;
	uint64_t xfam, attributes;
	/* 1: MONITOR and MWAIT do not exit. */
	uint64_t monitor;
	uint64_t tsc_offset, tsc_multiplier;
	uint64_t index;
	/* TDVPR first. */
	uint64_t pages[6];
};

/* What TDG.VP.VEINFO.GET will tell. */
struct tdx_ve_info {
	uint64_t reason, qualification, gla, gpa;
	/* Length, and instruction information in the upper half. */
	uint64_t instruction;
};

/* What of the guest's state CPUID depends on. */
struct tdx_cpuid_state {
	uint64_t cr4;
	/* The privilege level is 0; 64-bit mode. */
	bool supervisor, long_mode;
};

/* What becomes of RDMSR or WRMSR. */
enum tdx_msr {
	/* The CPU carries it out. */
	TDX_MSR_NATIVE,
	/* RDMSR gives a value of the module's. */
	TDX_MSR_VALUE,
	/* Virtualization exception. */
	TDX_MSR_VE,
	/* General protection fault. */
	TDX_MSR_GP,
};

/* How a SEAMCALL ended. */
enum tdx_call {
	/* The registers hold the result. */
	TDX_CALL_DONE,
	/* TDH.VP.ENTER: run the guest. */
	TDX_CALL_ENTERED,
	/* CF = 1, registers as before. */
	TDX_CALL_VMFAILINVALID,
};

/* What becomes of the guest. */
enum tdx_guest {
	/* It has left; the registers are the host's. */
	TDX_GUEST_EXIT,
	/* It goes on with the state of tdx_emu_load(). */
	TDX_GUEST_STAYS,
	/* It goes on with a virtualization exception; RCX is the GPA. */
	TDX_GUEST_VE,
	/* There is no guest, or the module has shut itself down. */
	TDX_GUEST_NONE,
};

void tdx_emu_init(const struct tdx_platform *platform);
enum tdx_call tdx_emu_seamcall(uint32_t lp, struct tdx_regs *regs);
/* False: no vCPU is in the guest on @lp. */
bool tdx_emu_controls(uint32_t lp, struct tdx_vcpu_controls *controls);
void tdx_emu_load(uint32_t lp, struct tdx_regs *regs, uint64_t *rip);
void tdx_emu_save(uint32_t lp, const struct tdx_regs *regs, uint64_t rip,
		  bool interrupt_pending);
bool tdx_emu_take_pending_nmi(uint32_t lp);

/* Events in the guest; @regs receives the host's registers on an exit. */
enum tdx_guest tdx_emu_tdcall(uint32_t lp, const struct tdx_regs *guest,
			      uint64_t rip, struct tdx_regs *regs);
enum tdx_guest tdx_emu_ept_violation(uint32_t lp, uint64_t gpa,
				     uint64_t qualification,
				     struct tdx_regs *regs);
enum tdx_guest tdx_emu_exit(uint32_t lp, uint16_t reason,
			    uint64_t qualification, uint64_t interrupt_info,
			    struct tdx_regs *regs);
/* False: the last one was not read yet, inject a double fault. */
bool tdx_emu_virt_exception(uint32_t lp, const struct tdx_ve_info *info);

/* CPUID in the guest: EAX, EBX, ECX, EDX. False: a virtualization exception. */
bool tdx_emu_cpuid(uint32_t lp, uint32_t leaf, uint32_t sub,
		   const struct tdx_cpuid_state *state, uint32_t *out);
/* @value is what WRMSR writes, or receives what RDMSR gives. */
enum tdx_msr tdx_emu_msr(uint32_t lp, uint32_t index, bool write,
			 uint64_t *value);

/* The guest has consumed a line that somebody else wrote. */
enum tdx_guest tdx_emu_poison(uint32_t lp, struct tdx_regs *regs);

/*
 * Turn the content of the page at @pa into what the TD with @hkid sees, and
 * back. False: somebody else wrote to the page, which is left as it is.
 */
bool tdx_emu_reveal(uint16_t hkid, uint64_t pa);
void tdx_emu_conceal(uint16_t hkid, uint64_t pa);

/*
 * The fault plan: calls that fail because a test wants them to. Lines are those
 * of tdxemu.ko without delays, see ../../kernel/README.md. False: @line has no
 * effect, as it is no rule or there is no room for it.
 */
bool tdx_emu_faults_apply(const char *line);
/*
 * The rules, each with how often it has fired; at most @size bytes with the 0 at
 * the end. Returns the length without that.
 */
size_t tdx_emu_faults_show(char *text, size_t size);

/* Reads a word of memory through a KeyID. */
uint64_t tdx_emu_read(uint16_t hkid, uint64_t pa);

/* Raw memory: what the bus carries. Addresses have no KeyID bits. */
uint64_t tdx_machine_read(uint64_t pa);
void tdx_machine_write(uint64_t pa, uint64_t value);
uint64_t tdx_machine_tsc(uint32_t lp);
bool tdx_machine_interrupt_pending(uint32_t lp);
/* Dirty lines of the page at @pa go to memory. */
void tdx_machine_flush_page(uint64_t pa);
/* CPUID and MSRs as the processor has them now. */
void tdx_machine_cpuid(uint32_t lp, uint32_t leaf, uint32_t sub, uint32_t *out);
uint64_t tdx_machine_msr(uint32_t lp, uint32_t index);
void tdx_machine_invept(uint32_t lp, uint64_t eptp);
/* A line of text about a call, without a newline. */
void tdx_machine_log(const char *line);
/* The model is not made for what it met: end the emulation. */
void tdx_machine_panic(const char *message);

#ifdef __cplusplus
}
#endif

#endif /* TDX_EMU_H */
