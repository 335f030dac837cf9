// SPDX-License-Identifier: GPL-2.0
//
// VM exits of a TD: which the module handles itself, which become
// virtualization exceptions, which the host sees; and address translation.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu.h"
#include "msr.h"
#include "apic.h"
#include "pc_system.h"
#include "tdx.hh"
#define LOG_THIS BX_CPU_THIS_PTR

// Page fault error code: present, reserved bit set.
static const unsigned PF_RESERVED = 0x09;

// --- leaving the guest

// One line for the log of calls, for which pages of its own a TD was stopped, and, if
// that was while an event was delivered, for which type of event (VM-entry
// interruption-information field).
static void log_violation(const struct tdx_vcpu *v, Bit64u gpa, bool in_event, Bit32u event)
{
  char line[120], delivering[30] = "";

  if (gpa >> v->ctl.shared_bit & 1)
    return;
  if (in_event)
    snprintf(delivering, sizeof(delivering), ",\"delivering\":%u", event >> 8 & 7);
  snprintf(line, sizeof(line), "{\"ept_violation\":{\"tdr\":\"0x" FMT_LL "x\",\"gpa\":\"0x" FMT_LL "x\"%s}}",
    v->ctl.tdr, gpa & ~Bit64u(0xfff), delivering);
  tdx_machine_log(line);
}

// TD exit: what VMexit() does, then what the module does on top. Never returns.
void BX_CPU_C::tdx_leave(Bit32u reason, Bit64u qualification, struct tdx_regs *regs)
{
  VMCS_CACHE *vm = &BX_CPU_THIS_PTR vmcs;
  struct tdx_vcpu *v = BX_CPU_THIS_PTR tdx;
  struct tdx_host *h = &v->host;
  bool nmi = reason == VMX_VMEXIT_EXCEPTION_NMI;

  if (reason == VMX_VMEXIT_EPT_VIOLATION)
    log_violation(v, regs->r8, BX_CPU_THIS_PTR in_event, vm->idt_vector_info);
  if (BX_CPU_THIS_PTR in_event) { // to be delivered again at the next entry
    v->event = vm->idt_vector_info | 0x80000000;
    v->event_error = vm->idt_vector_error_code;
    BX_CPU_THIS_PTR in_event = false;
  }
  BX_CPU_THIS_PTR nmi_unblocking_iret = false;
  if (BX_CPU_THIS_PTR speculative_rsp)
    RSP = BX_CPU_THIS_PTR prev_rsp;
  BX_CPU_THIS_PTR speculative_rsp = false;

  VMexitSaveGuestState(reason, nmi ? 2 : 0);
  tdx_save_guest();
  BX_CPU_THIS_PTR in_vmx_guest = false;
  BX_CPU_THIS_PTR tdx = NULL;
  clear_event(BX_EVENT_VMX_VTPR_UPDATE | BX_EVENT_VMX_VEOI_UPDATE | BX_EVENT_VMX_VIRTUAL_APIC_WRITE |
              BX_EVENT_VMX_MONITOR_TRAP_FLAG | BX_EVENT_VMX_INTERRUPT_WINDOW_EXITING |
              BX_EVENT_VMX_PREEMPTION_TIMER_EXPIRED | BX_EVENT_VMX_VIRTUAL_NMI |
              BX_EVENT_PENDING_VMX_VIRTUAL_INTR);

  VMexitLoadHostState();
  memcpy(BX_CPU_THIS_PTR sregs, h->sregs, sizeof(h->sregs));
  BX_CPU_THIS_PTR ldtr = h->ldtr;
  BX_CPU_THIS_PTR tr = h->tr;
  BX_CPU_THIS_PTR gdtr = h->gdtr;
  BX_CPU_THIS_PTR idtr = h->idtr;
  BX_CPU_THIS_PTR dr7.set32(h->dr7);
  setEFlags(h->eflags);
  clearEFlagsOSZAPC();
  BX_CPU_THIS_PTR vmcsptr = h->vmcsptr;
  BX_CPU_THIS_PTR vmcshostptr = h->vmcshostptr;
  regs->rbp = h->regs.rbp;
  tdx_set_regs(regs);
  handleCpuContextChange();

  mask_event(BX_EVENT_INIT);
  if (nmi)
    mask_event(BX_EVENT_NMI);
  BX_CPU_THIS_PTR EXT = 0;
  BX_CPU_THIS_PTR last_exception_type = 0;
  longjmp(BX_CPU_THIS_PTR jmp_buf_env, 1);
}

// The instruction is done, in another way than Bochs would do it.
static void finish_instruction(BX_CPU_C *cpu)
{
  cpu->prev_rip = cpu->get_instruction_pointer();
  longjmp(cpu->jmp_buf_env, 1);
}

// #VE, or a double fault if the guest has not read about the last one.
void BX_CPU_C::tdx_inject_ve(Bit32u reason, Bit64u qualification, Bit64u gla, Bit64u gpa)
{
  struct tdx_ve_info info = { reason, qualification, gla, gpa, (RIP - BX_CPU_THIS_PTR prev_rip) & 0xf };

  if (tdx_emu_virt_exception(BX_CPU_ID, &info))
    exception(BX_VE_EXCEPTION, 0);
  exception(BX_DF_EXCEPTION, 0);
}

// Tells the model the guest's registers, for an exit at this instruction.
void tdx_tell(BX_CPU_C *cpu, unsigned lp)
{
  struct tdx_regs guest;
  VMCS_CACHE *vm = &cpu->vmcs;
  Bit8u ppr = cpu->VMX_Read_Virtual_APIC(BX_LAPIC_PPR) & 0xf0;

  cpu->tdx_get_regs(&guest);
  tdx_emu_save(lp, &guest, cpu->prev_rip, (vm->rvi & 0xf0) > ppr);
}

// CPUID leaves are the TD's, not the CPU's.
void BX_CPU_C::tdx_cpuid(void)
{
  struct tdx_cpuid_state state = { BX_CPU_THIS_PTR cr4.get32(), CPL == 0, long64_mode() };
  Bit32u out[4];

  if (!tdx_emu_cpuid(BX_CPU_ID, EAX, ECX, &state, out))
    tdx_inject_ve(VMX_VMEXIT_CPUID, 0, 0, 0);
  RAX = out[0];
  RBX = out[1];
  RCX = out[2];
  RDX = out[3];
  finish_instruction(BX_CPU_THIS);
}

// RDMSR and WRMSR. Returns if the CPU carries them out.
void BX_CPU_C::tdx_msr(Bit32u reason)
{
  Bit64u value = GET64_FROM_HI32_LO32(EDX, EAX);

  switch (tdx_emu_msr(BX_CPU_ID, ECX, reason == VMX_VMEXIT_WRMSR, &value)) {
  case TDX_MSR_NATIVE:
    return;
  case TDX_MSR_VALUE:
    RAX = GET32L(value);
    RDX = GET32H(value);
    finish_instruction(BX_CPU_THIS);
    return;
  case TDX_MSR_VE:
    tdx_inject_ve(reason, 0, 0, 0);
    return;
  case TDX_MSR_GP:
    exception(BX_GP_EXCEPTION, 0);
    return;
  }
}

// MOV to CR4 sets a bit that is not the guest's.
static bool tdx_bad_cr4(BX_CPU_C *cpu, Bit64u qualification)
{
  if ((qualification & 0x3f) != 4)
    return false;
  Bit64u value = cpu->get_reg64((qualification >> 8) & 0xf);
  return value & (~Bit64u(cpu->cr4_suppmask) | tdx_cr4_refused(&cpu->tdx->ctl));
}

// Any VM exit while a TD runs. Returns if the instruction goes on.
void BX_CPU_C::tdx_vmexit(Bit32u reason, Bit64u qualification)
{
  struct tdx_regs host;
  Bit64u info = 0;

  if (reason & 0x80000000)
    BX_PANIC(("TD entry failed: exit reason 0x%08x, qualification " FMT_LL "d", reason, qualification));
  reason &= 0xffff;
  switch (reason) {
  case VMX_VMEXIT_EXCEPTION_NMI:
  case VMX_VMEXIT_EXTERNAL_INTERRUPT:
    info = VMread32(VMCS_32BIT_VMEXIT_INTERRUPTION_INFO);
    break;
  case VMX_VMEXIT_TRIPLE_FAULT:
    break;
  case VMX_VMEXIT_TPR_THRESHOLD:
  case VMX_VMEXIT_VIRTUALIZED_EOI:
  case VMX_VMEXIT_APIC_WRITE:
    return;
  case VMX_VMEXIT_CPUID:
    tdx_cpuid();
    return;
  case VMX_VMEXIT_RDMSR:
  case VMX_VMEXIT_WRMSR:
    tdx_msr(reason);
    return;
  case VMX_VMEXIT_XSETBV:
    if (!(((Bit64u(EDX) << 32) | EAX) & ~BX_CPU_THIS_PTR tdx->ctl.xfam))
      return;
    exception(BX_GP_EXCEPTION, 0);
    return;
  case VMX_VMEXIT_CR_ACCESS:
    if (tdx_bad_cr4(BX_CPU_THIS, qualification))
      exception(BX_GP_EXCEPTION, 0);
    tdx_inject_ve(reason, qualification, 0, 0);
    return;
  case VMX_VMEXIT_HLT:
  case VMX_VMEXIT_INVD:
  case VMX_VMEXIT_VMCALL:
  case VMX_VMEXIT_IO_INSTRUCTION:
  case VMX_VMEXIT_WBINVD:
  case VMX_VMEXIT_MONITOR:
  case VMX_VMEXIT_MWAIT:
    tdx_inject_ve(reason, qualification, 0, 0);
    return;
  case VMX_VMEXIT_RDPMC: // no perfmon
  case VMX_VMEXIT_TASK_SWITCH:
    exception(BX_GP_EXCEPTION, 0);
    return;
  default: // instructions of VMX and SEAM
    exception(BX_UD_EXCEPTION, 0);
    return;
  }

  // Exits are fault-like, those between instructions find both equal.
  RIP = BX_CPU_THIS_PTR prev_rip;
  tdx_tell(BX_CPU_THIS, BX_CPU_ID);
  if (tdx_emu_exit(BX_CPU_ID, Bit16u(reason), qualification, info, &host) != TDX_GUEST_EXIT)
    BX_PANIC(("the TDX module is dead"));
  tdx_leave(reason, qualification, &host);
}

// An access through the TD's KeyID found what somebody else wrote.
void BX_CPU_C::tdx_poisoned(void)
{
  struct tdx_regs host;

  if (!BX_CPU_THIS_PTR tdx)
    BX_PANIC(("TD memory is damaged, and no TD runs"));
  RIP = BX_CPU_THIS_PTR prev_rip;
  tdx_tell(BX_CPU_THIS, BX_CPU_ID);
  if (tdx_emu_poison(BX_CPU_ID, &host) != TDX_GUEST_EXIT)
    BX_PANIC(("the TDX module is dead"));
  tdx_leave(VMX_VMEXIT_VMENTRY_FAILURE_MCA, 0, &host);
}

// --- address translation

static bool tdx_shared(const struct tdx_vcpu *v, bx_phy_address gpa)
{
  return gpa >> v->ctl.shared_bit & 1;
}

// The table that translates a guest physical address: the secure EPT with the
// TD's KeyID, or the shared EPT.
bx_phy_address BX_CPU_C::tdx_ept_root(bx_phy_address gpa, bx_address laddr, bool is_page_walk, unsigned rw)
{
  struct tdx_vcpu *v = BX_CPU_THIS_PTR tdx;

  if (gpa >> (v->ctl.shared_bit + 1)) // wider than the guest's physical addresses
    page_fault(PF_RESERVED, laddr, CPL == 3, rw);
  if (!tdx_shared(v, gpa))
    return LPFOf(v->ctl.eptp);
  // Neither code nor page tables can be in shared memory.
  if (is_page_walk || rw == BX_EXECUTE)
    page_fault(PF_RESERVED, laddr, CPL == 3, rw);
  return LPFOf(v->ctl.shared_eptp);
}

Bit64u BX_CPU_C::tdx_ept_entry(bx_phy_address gpa, bx_phy_address addr)
{
  struct tdx_vcpu *v = BX_CPU_THIS_PTR tdx;

  if (tdx_shared(v, gpa))
    return read_physical_qword(addr, BX_MEMTYPE_WB, BX_EPT_PTE_ACCESS);
  Bit64u entry = tdx_emu_read(Bit16u(v->ctl.hkid), addr & BX_KEYID_MASK);
  // The memory it leads to is accessed with the TD's KeyID.
  if (entry & 7)
    entry |= v->ctl.hkid << TDX_KEYID_SHIFT;
  return entry;
}

// A translation from before the entry is as good as one from after it, until the
// module says otherwise.
bool BX_CPU_C::tdx_ept_known(bx_phy_address gpa, Bit32u access, bx_phy_address *hpa)
{
  struct tdx_vcpu *v = BX_CPU_THIS_PTR tdx;

  return !tdx_shared(v, gpa) && tdx_tlb_find(BX_CPU_ID, v->ctl.eptp, gpa, access, hpa);
}

void BX_CPU_C::tdx_ept_learn(bx_phy_address gpa, bx_phy_address hpa, Bit32u access)
{
  struct tdx_vcpu *v = BX_CPU_THIS_PTR tdx;

  if (!tdx_shared(v, gpa))
    tdx_tlb_add(BX_CPU_ID, v->ctl.eptp, gpa, hpa, access);
}

void BX_CPU_C::tdx_ept_fault(Bit32u reason, Bit64u qualification, bx_phy_address gpa, bx_address laddr, Bit64u entry)
{
  struct tdx_vcpu *v = BX_CPU_THIS_PTR tdx;
  struct tdx_regs host;

  if (reason == VMX_VMEXIT_EPT_VIOLATION && tdx_shared(v, gpa) && !(entry >> 63) && !BX_CPU_THIS_PTR in_event)
    tdx_inject_ve(reason, qualification, laddr, gpa);
  if (reason == VMX_VMEXIT_EPT_VIOLATION && !tdx_shared(v, gpa))
    tdx_tlb_violation(BX_CPU_ID, v->ctl.eptp, gpa);

  Bit64u rip = RIP;
  // of the instruction that has raised the event which is being delivered, if one has
  VMwrite32(VMCS_32BIT_VMEXIT_INSTRUCTION_LENGTH, (rip - BX_CPU_THIS_PTR prev_rip) & 0xf);
  RIP = BX_CPU_THIS_PTR prev_rip;
  tdx_tell(BX_CPU_THIS, BX_CPU_ID);
  enum tdx_guest outcome = reason == VMX_VMEXIT_EPT_VIOLATION ?
    tdx_emu_ept_violation(BX_CPU_ID, gpa, qualification, &host) :
    tdx_emu_exit(BX_CPU_ID, Bit16u(reason), 0, 0, &host);
  if (outcome == TDX_GUEST_EXIT)
    tdx_leave(reason, qualification, &host);
  if (outcome != TDX_GUEST_VE)
    BX_PANIC(("the TDX module is dead"));
  RIP = rip; // for the length of the instruction
  tdx_inject_ve(reason, qualification, laddr, gpa);
}
