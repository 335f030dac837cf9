// SPDX-License-Identifier: GPL-2.0
//
// TD entry: the VMCS of a TD vCPU and the state that VMX does not switch.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu.h"
#include "msr.h"
#include "apic.h"
#include "pc_system.h"
#include "tdx.hh"
#define LOG_THIS BX_CPU_THIS_PTR

extern Bit32u vmx_pack_ar_field(Bit32u ar_field, VMCS_Access_Rights_Format access_rights_format);

static const Bit32u PIN = VMX_PIN_BASED_VMEXEC_CTRL_EXTERNAL_INTERRUPT_VMEXIT |
                          VMX_PIN_BASED_VMEXEC_CTRL_NMI_EXITING |
                          VMX_PIN_BASED_VMEXEC_CTRL_VIRTUAL_NMI;
// Without MSR bitmaps every access exits, and tdx_vmexit() decides.
static const Bit32u PROC = VMX_VM_EXEC_CTRL1_TSC_OFFSET | VMX_VM_EXEC_CTRL1_HLT_VMEXIT |
                           VMX_VM_EXEC_CTRL1_RDPMC_VMEXIT | VMX_VM_EXEC_CTRL1_TPR_SHADOW |
                           VMX_VM_EXEC_CTRL1_IO_VMEXIT | VMX_VM_EXEC_CTRL1_SECONDARY_CONTROLS;
// Of a TD without the feature MONITOR.
static const Bit32u PROC_MONITOR = VMX_VM_EXEC_CTRL1_MWAIT_VMEXIT | VMX_VM_EXEC_CTRL1_MONITOR_VMEXIT;
static const Bit32u PROC2 = VMX_VM_EXEC_CTRL2_EPT_ENABLE | VMX_VM_EXEC_CTRL2_RDTSCP |
                            VMX_VM_EXEC_CTRL2_VIRTUALIZE_X2APIC_MODE | VMX_VM_EXEC_CTRL2_WBINVD_VMEXIT |
                            VMX_VM_EXEC_CTRL2_UNRESTRICTED_GUEST |
                            VMX_VM_EXEC_CTRL2_VIRTUALIZE_APIC_REGISTERS |
                            VMX_VM_EXEC_CTRL2_VIRTUAL_INT_DELIVERY | VMX_VM_EXEC_CTRL2_INVPCID |
                            VMX_VM_EXEC_CTRL2_XSAVES_XRSTORS | VMX_VM_EXEC_CTRL2_TSC_SCALING;
static const Bit32u EXIT = VMX_VMEXIT_CTRL1_SAVE_DBG_CTRLS | VMX_VMEXIT_CTRL1_HOST_ADDR_SPACE_SIZE |
                           VMX_VMEXIT_CTRL1_INTA_ON_VMEXIT | VMX_VMEXIT_CTRL1_STORE_PAT_MSR |
                           VMX_VMEXIT_CTRL1_LOAD_PAT_MSR | VMX_VMEXIT_CTRL1_STORE_EFER_MSR |
                           VMX_VMEXIT_CTRL1_LOAD_EFER_MSR;
static const Bit32u ENTRY = VMX_VMENTRY_CTRL1_LOAD_DBG_CTRLS | VMX_VMENTRY_CTRL1_LOAD_PAT_MSR |
                            VMX_VMENTRY_CTRL1_LOAD_EFER_MSR;

static const Bit64u PAT_RESET = BX_CONST64(0x0007040600070406);
// Reset state of a TD vCPU: flat 32-bit protected mode, ready for long mode.
static const Bit64u TD_CR0 = 0x21;
static const Bit64u TD_CR4 = BX_CR4_VMXE_MASK | BX_CR4_MCE_MASK;
static const Bit64u TD_EFER = 0x901;
static const Bit64u TD_RIP = 0xfffffff0;
static const Bit32u MACHINE_CHECK = 1 << BX_MC_EXCEPTION;

Bit64u tdx_cr4_refused(const struct tdx_vcpu_controls *ctl)
{
  static const Bit64u PK = 1 << 9, CET = 3 << 11, UINTR = 1 << 14; // XFAM
  static const Bit64u PKS = 1 << 30; // attributes
  Bit64u refused = BX_CR4_KEYLOCKER_MASK;

  if (!(ctl->xfam & PK))
    refused |= BX_CR4_PKE_MASK;
  if ((ctl->xfam & CET) != CET)
    refused |= BX_CR4_CET_MASK;
  if (!(ctl->xfam & UINTR))
    refused |= BX_CR4_UINTR_MASK;
  if (!(ctl->attributes & PKS))
    refused |= BX_CR4_PKS_MASK;
  return refused;
}

// The VMCS of a vCPU that was never run.
void BX_CPU_C::tdx_vmcs_init(struct tdx_vcpu *v)
{
  static const Bit64u CR0_OWNED = BX_CR0_NE_MASK | BX_CR0_NW_MASK | BX_CR0_CD_MASK;
  static const Bit64u CR4_OWNED = BX_CR4_VMXE_MASK | BX_CR4_SMXE_MASK | BX_CR4_MCE_MASK;
  VMCS_Access_Rights_Format format = BX_CPU_THIS_PTR vmcs_map->get_access_rights_format();

  memset(v->vmcs, 0, sizeof(v->vmcs));
  VMwrite32(VMCS_LAUNCH_STATE_FIELD_ENCODING, VMCS_STATE_LAUNCHED);
  VMwrite32(VMCS_32BIT_CONTROL_PROCESSOR_BASED_VMEXEC_CONTROLS,
    PROC | (v->ctl.monitor ? 0 : PROC_MONITOR) | VMX_MSR_VMX_TRUE_PROCBASED_CTRLS_LO);
  VMwrite32(VMCS_32BIT_CONTROL_SECONDARY_VMEXEC_CONTROLS, PROC2);
  VMwrite32(VMCS_32BIT_CONTROL_VMEXIT_CONTROLS, EXIT | VMX_MSR_VMX_TRUE_VMEXIT_CTRLS_LO);
  VMwrite32(VMCS_32BIT_CONTROL_VMENTRY_CONTROLS, ENTRY | VMX_MSR_VMX_TRUE_VMENTRY_CTRLS_LO);
  VMwrite32(VMCS_32BIT_CONTROL_EXECUTION_BITMAP, MACHINE_CHECK);
  VMwrite_natural(VMCS_CONTROL_CR0_GUEST_HOST_MASK, CR0_OWNED);
  VMwrite_natural(VMCS_CONTROL_CR0_READ_SHADOW, TD_CR0);
  VMwrite_natural(VMCS_CONTROL_CR4_GUEST_HOST_MASK, CR4_OWNED | tdx_cr4_refused(&v->ctl));
  VMwrite_natural(VMCS_CONTROL_CR4_READ_SHADOW, BX_CR4_MCE_MASK);
  VMwrite64(VMCS_64BIT_GUEST_LINK_POINTER, BX_INVALID_VMCSPTR);

  VMwrite_natural(VMCS_GUEST_CR0, TD_CR0);
  VMwrite_natural(VMCS_GUEST_CR4, TD_CR4);
  VMwrite_natural(VMCS_GUEST_DR7, 0x400);
  VMwrite_natural(VMCS_GUEST_RFLAGS, 2);
  VMwrite_natural(VMCS_GUEST_RIP, TD_RIP);
  VMwrite64(VMCS_64BIT_GUEST_IA32_EFER, TD_EFER);
  VMwrite64(VMCS_64BIT_GUEST_IA32_PAT, PAT_RESET);
  for (int n = 0; n < 6; n++) {
    VMwrite32(VMCS_32BIT_GUEST_ES_LIMIT + 2*n, 0xffffffff);
    VMwrite32(VMCS_32BIT_GUEST_ES_ACCESS_RIGHTS + 2*n,
      vmx_pack_ar_field(n == BX_SEG_REG_CS ? 0xc09b : 0xc093, format));
  }
  VMwrite32(VMCS_32BIT_GUEST_LDTR_LIMIT, 0xffff);
  VMwrite32(VMCS_32BIT_GUEST_LDTR_ACCESS_RIGHTS, vmx_pack_ar_field(0x82, format));
  VMwrite32(VMCS_32BIT_GUEST_TR_LIMIT, 0xffff);
  VMwrite32(VMCS_32BIT_GUEST_TR_ACCESS_RIGHTS, vmx_pack_ar_field(0x8b, format));
  VMwrite32(VMCS_32BIT_GUEST_GDTR_LIMIT, 0xffff);
  VMwrite32(VMCS_32BIT_GUEST_IDTR_LIMIT, 0xffff);

  v->event = 0;
  memset(&v->ext, 0, sizeof(v->ext));
  v->ext.fpu.init();
  v->ext.mxcsr.mxcsr = MXCSR_RESET;
  v->ext.xcr0 = 1;
  v->ext.dr6 = 0xffff0ff0;
  v->ext.fmask = 0x20200;
}

// The host goes on behind SEAMCALL.
void BX_CPU_C::tdx_vmcs_host(struct tdx_vcpu *v)
{
  struct tdx_host *h = &v->host;

  tdx_get_regs(&h->regs);
  h->rsp = RSP;
  h->eflags = BX_CPU_THIS_PTR read_eflags();
  memcpy(h->sregs, BX_CPU_THIS_PTR sregs, sizeof(h->sregs));
  h->ldtr = BX_CPU_THIS_PTR ldtr;
  h->tr = BX_CPU_THIS_PTR tr;
  h->gdtr = BX_CPU_THIS_PTR gdtr;
  h->idtr = BX_CPU_THIS_PTR idtr;
  h->cr2 = BX_CPU_THIS_PTR cr2;
  h->dr7 = BX_CPU_THIS_PTR dr7.get32();
  h->spec_ctrl = BX_CPU_THIS_PTR msr.ia32_spec_ctrl;

  VMwrite_natural(VMCS_HOST_CR0, BX_CPU_THIS_PTR cr0.get32());
  VMwrite_natural(VMCS_HOST_CR3, BX_CPU_THIS_PTR cr3);
  VMwrite_natural(VMCS_HOST_CR4, BX_CPU_THIS_PTR cr4.get32());
  VMwrite64(VMCS_64BIT_HOST_IA32_EFER, BX_CPU_THIS_PTR efer.get32());
  VMwrite64(VMCS_64BIT_HOST_IA32_PAT, BX_CPU_THIS_PTR msr.pat.u64);
  for (int n = 0; n < 6; n++)
    VMwrite16(VMCS_16BIT_HOST_ES_SELECTOR + 2*n, h->sregs[n].selector.value & ~7);
  VMwrite16(VMCS_16BIT_HOST_TR_SELECTOR, h->tr.selector.value);
  VMwrite_natural(VMCS_HOST_TR_BASE, h->tr.cache.u.segment.base);
  VMwrite_natural(VMCS_HOST_FS_BASE, h->sregs[BX_SEG_REG_FS].cache.u.segment.base);
  VMwrite_natural(VMCS_HOST_GS_BASE, h->sregs[BX_SEG_REG_GS].cache.u.segment.base);
  VMwrite_natural(VMCS_HOST_GDTR_BASE, h->gdtr.base);
  VMwrite_natural(VMCS_HOST_IDTR_BASE, h->idtr.base);
  VMwrite32(VMCS_32BIT_HOST_IA32_SYSENTER_CS_MSR, BX_CPU_THIS_PTR msr.sysenter_cs_msr);
  VMwrite_natural(VMCS_HOST_IA32_SYSENTER_ESP_MSR, BX_CPU_THIS_PTR msr.sysenter_esp_msr);
  VMwrite_natural(VMCS_HOST_IA32_SYSENTER_EIP_MSR, BX_CPU_THIS_PTR msr.sysenter_eip_msr);
  VMwrite_natural(VMCS_HOST_RSP, RSP);
  VMwrite_natural(VMCS_HOST_RIP, RIP);
}

// Exchanges what VMX leaves alone.
static void tdx_load_extended(BX_CPU_C *cpu, const struct tdx_extended *e)
{
  cpu->the_i387 = e->fpu;
  memcpy(cpu->vmm, e->vmm, sizeof(e->vmm));
  memcpy(cpu->opmask, e->opmask, sizeof(e->opmask));
  cpu->mxcsr = e->mxcsr;
  cpu->xcr0.set32(e->xcr0);
  cpu->msr.ia32_xss = e->xss;
  cpu->msr.star = e->star;
  cpu->msr.lstar = e->lstar;
  cpu->msr.cstar = e->cstar;
  cpu->msr.fmask = e->fmask;
  cpu->msr.kernelgsbase = e->kernelgsbase;
  cpu->msr.tsc_aux = e->tsc_aux;
  cpu->msr.ia32_spec_ctrl = e->spec_ctrl;
  cpu->cr2 = e->cr2;
  memcpy(cpu->dr, e->dr, sizeof(e->dr));
  cpu->dr6.set32(e->dr6);
  cpu->set_PKeys(e->pkru, cpu->pkrs);
}

void BX_CPU_C::tdx_enter(bxInstruction_c *i)
{
  struct tdx_vcpu_controls ctl;
  struct tdx_regs regs;
  Bit64u rip = 0;

  tdx_emu_controls(BX_CPU_ID, &ctl);
  tdx_emu_load(BX_CPU_ID, &regs, &rip);
  struct tdx_vcpu *v = tdx_vcpu_of(ctl.tdvpr);
  v->ctl = ctl;
  v->host.vmcsptr = BX_CPU_THIS_PTR vmcsptr;
  v->host.vmcshostptr = BX_CPU_THIS_PTR vmcshostptr;
  BX_CPU_THIS_PTR vmcsptr = ctl.tdvpr;
  BX_CPU_THIS_PTR vmcshostptr = (bx_hostpageaddr_t)v->vmcs;
  if (!rip) // the TDVPR of a vCPU that never ran
    tdx_vmcs_init(v);
  tdx_vmcs_host(v);

  Bit64u keyid = ctl.hkid << TDX_KEYID_SHIFT;
  VMwrite32(VMCS_32BIT_CONTROL_PIN_BASED_EXEC_CONTROLS, VMX_MSR_VMX_TRUE_PINBASED_CTRLS_LO | PIN |
    (ctl.posted_descriptor ? VMX_PIN_BASED_VMEXEC_CTRL_PROCESS_POSTED_INTERRUPTS : 0));
  VMwrite16(VMCS_16BIT_CONTROL_POSTED_INTERRUPT_VECTOR, Bit16u(ctl.posted_vector));
  VMwrite64(VMCS_64BIT_CONTROL_POSTED_INTERRUPT_DESC_ADDR, ctl.posted_descriptor);
  VMwrite64(VMCS_64BIT_CONTROL_EPTPTR, ctl.eptp);
  VMwrite64(VMCS_64BIT_CONTROL_VIRTUAL_APIC_PAGE_ADDR, ctl.pages[1] | keyid);
  VMwrite64(VMCS_64BIT_CONTROL_TSC_OFFSET, ctl.tsc_offset);
  VMwrite64(VMCS_64BIT_CONTROL_TSC_MULTIPLIER, ctl.tsc_multiplier);

  Bit32u blocked = VMread32(VMCS_32BIT_GUEST_INTERRUPTIBILITY_STATE);
  if (!v->event && !(blocked & BX_VMX_INTERRUPTS_BLOCKED_NMI_BLOCKED) && tdx_emu_take_pending_nmi(BX_CPU_ID)) {
    v->event = 0x80000000 | BX_NMI << 8 | 2;
    VMwrite32(VMCS_32BIT_GUEST_INTERRUPTIBILITY_STATE, 0);
  }
  VMwrite32(VMCS_32BIT_CONTROL_VMENTRY_INTERRUPTION_INFO, v->event);
  VMwrite32(VMCS_32BIT_CONTROL_VMENTRY_EXCEPTION_ERR_CODE, v->event_error);
  VMwrite32(VMCS_32BIT_CONTROL_VMENTRY_INSTRUCTION_LENGTH, VMread32(VMCS_32BIT_VMEXIT_INSTRUCTION_LENGTH));
  v->event = 0;

  tdx_load_extended(BX_CPU_THIS, &v->ext);
  tdx_set_regs(&regs);
  BX_CPU_THIS_PTR tdx = v;
  tdx_tlb_entry(BX_CPU_ID);
  VMLAUNCH(i);
  if (!BX_CPU_THIS_PTR in_vmx_guest)
    BX_PANIC(("TD entry failed: VM instruction error %d", VMread32(VMCS_32BIT_INSTRUCTION_ERROR)));
}

// The guest's share of the registers goes to its vCPU, the host gets what the
// module leaves it.
void BX_CPU_C::tdx_save_guest(void)
{
  struct tdx_extended *e = &BX_CPU_THIS_PTR tdx->ext;

  e->fpu = BX_CPU_THIS_PTR the_i387;
  memcpy(e->vmm, BX_CPU_THIS_PTR vmm, sizeof(e->vmm));
  memcpy(e->opmask, BX_CPU_THIS_PTR opmask, sizeof(e->opmask));
  e->mxcsr = BX_CPU_THIS_PTR mxcsr;
  e->xcr0 = BX_CPU_THIS_PTR xcr0.get32();
  e->xss = BX_CPU_THIS_PTR msr.ia32_xss;
  e->star = BX_CPU_THIS_PTR msr.star;
  e->lstar = BX_CPU_THIS_PTR msr.lstar;
  e->cstar = BX_CPU_THIS_PTR msr.cstar;
  e->fmask = BX_CPU_THIS_PTR msr.fmask;
  e->kernelgsbase = BX_CPU_THIS_PTR msr.kernelgsbase;
  e->tsc_aux = BX_CPU_THIS_PTR msr.tsc_aux;
  e->spec_ctrl = BX_CPU_THIS_PTR msr.ia32_spec_ctrl;
  e->cr2 = BX_CPU_THIS_PTR cr2;
  memcpy(e->dr, BX_CPU_THIS_PTR dr, sizeof(e->dr));
  e->dr6 = BX_CPU_THIS_PTR dr6.get32();
  e->pkru = BX_CPU_THIS_PTR pkru;

  struct tdx_extended left;
  memset(&left, 0, sizeof(left));
  left.fpu.init();
  left.mxcsr.mxcsr = MXCSR_RESET;
  left.xcr0 = Bit32u(BX_CPU_THIS_PTR tdx->ctl.xfam) & BX_CPU_THIS_PTR xcr0_suppmask;
  left.fmask = 0x20200;
  left.spec_ctrl = BX_CPU_THIS_PTR tdx->host.spec_ctrl;
  left.cr2 = BX_CPU_THIS_PTR tdx->host.cr2;
  left.dr6 = 0xffff0ff0;
  tdx_load_extended(BX_CPU_THIS, &left);
}
