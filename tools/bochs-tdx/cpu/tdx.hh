// SPDX-License-Identifier: GPL-2.0
/*
 * A TD vCPU while Bochs runs it: what the host had and gets back at TD exit,
 * and what of the guest lives neither in its VMCS nor in the TDVPR.
 */
#ifndef BX_TDX_H
#define BX_TDX_H

#include "tdx_emu.h"

/* State that VMX does not switch: the module has to. */
struct tdx_extended {
	i387_t fpu;
	bx_zmm_reg_t vmm[BX_XMM_REGISTERS + 1];
	bx_gen_reg_t opmask[8];
	bx_mxcsr_t mxcsr;
	Bit32u xcr0;
	Bit32u pkru;
	Bit64u xss;
	Bit64u star, lstar, cstar, kernelgsbase;
	Bit32u fmask, tsc_aux, spec_ctrl;
	bx_address cr2, dr[4];
	Bit32u dr6;
};

/* Host state that a VM exit does not restore as it was. */
struct tdx_host {
	struct tdx_regs regs;
	bx_address rsp;
	Bit32u eflags;
	bx_segment_reg_t sregs[6], ldtr, tr;
	bx_global_segment_reg_t gdtr, idtr;
	bx_address cr2;
	Bit32u dr7, spec_ctrl;
	bx_phy_address vmcsptr;
	bx_hostpageaddr_t vmcshostptr;
};

struct tdx_vcpu {
	struct tdx_vcpu_controls ctl;
	struct tdx_extended ext;
	struct tdx_host host;
	/* Event whose delivery an exit interrupted: VM-entry format. */
	Bit32u event, event_error;
	alignas(4096) Bit8u vmcs[4096];
};

/* The bits of CR4 that neither XFAM nor the attributes allow. */
Bit64u tdx_cr4_refused(const struct tdx_vcpu_controls *ctl);

/* The vCPU of a TDVPR. */
struct tdx_vcpu *tdx_vcpu_of(Bit64u tdvpr);

/* Translations of private memory that a logical processor keeps. */
void tdx_tlb_entry(unsigned lp);
bool tdx_tlb_find(unsigned lp, Bit64u eptp, bx_phy_address gpa, Bit32u access, bx_phy_address *hpa);
void tdx_tlb_add(unsigned lp, Bit64u eptp, bx_phy_address gpa, bx_phy_address hpa, Bit32u access);
void tdx_tlb_violation(unsigned lp, Bit64u eptp, bx_phy_address gpa);
void tdx_tlb_invept(unsigned lp, Bit64u eptp);
void tdx_tlb_report(FILE *log);

/* The port through which tests make calls fail. */
void tdx_faults_init(void);

/* Before what may be an exit of the guest. */
void tdx_tell(BX_CPU_C *cpu, unsigned lp);

/* Encrypted memory. */
void tdx_views_init(Bit64u memory);
void tdx_write_back(void);

#define TDX_KEYID_SHIFT (BX_PHY_ADDRESS_WIDTH - BX_KEYID_BITS)

#endif /* BX_TDX_H */
