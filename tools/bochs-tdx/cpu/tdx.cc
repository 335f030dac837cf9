// SPDX-License-Identifier: GPL-2.0
//
// SEAMCALL and TDCALL: instructions that the TDX module model answers.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu.h"
#include "msr.h"
#include "cpuid.h"
#include "pc_system.h"
#include "memory/memory-bochs.h"
#include "tdx.hh"
#define LOG_THIS BX_CPU_THIS_PTR

#include <map>

// What msrs.def says to the host: IA32_MKTME_KEYID_PARTITIONING.
static const Bit32u FIRST_PRIVATE_KEYID = 32;
static const Bit64u TSC_HZ = 100000000;
// Leaf number.
static const Bit64u PHYMEM_CACHE_WB = 40;

static FILE *tdx_log;

static void tdx_end(void)
{
  tdx_tlb_report(tdx_log);
  fclose(tdx_log);
  tdx_log = NULL;
}

static void tdx_start(void)
{
  static bool started;
  if (started)
    return;
  started = true;
  const char *log = getenv("BOCHS_TDX_LOG");
  if (log && (tdx_log = fopen(log, "w")))
    atexit(tdx_end);
  const char *plain = getenv("BOCHS_TDX_PLAIN");
  bool cipher = !plain || *plain != '1';
  if (cipher)
    tdx_views_init(BX_MEM(0)->get_memory_len());
  struct tdx_platform platform = {
    BX_PHY_ADDRESS_WIDTH,
    BX_KEYID_BITS,
    FIRST_PRIVATE_KEYID,
    BX_SMP_PROCESSORS,
    BX_MEM(0)->get_memory_len(),
    TSC_HZ,
    cipher,
  };
  tdx_emu_init(&platform);
  tdx_faults_init();
}

// --- the machine, as the module model uses it

extern "C" uint64_t tdx_machine_tsc(uint32_t lp)
{
  return BX_CPU(lp)->get_TSC();
}

extern "C" bool tdx_machine_interrupt_pending(uint32_t lp)
{
  return BX_CPU(lp)->is_pending(BX_EVENT_PENDING_INTR | BX_EVENT_PENDING_LAPIC_INTR | BX_EVENT_NMI);
}

// Leaves of the guest's own state, as XSAVE's, are those of the processor now.
extern "C" void tdx_machine_cpuid(uint32_t lp, uint32_t leaf, uint32_t sub, uint32_t *out)
{
  cpuid_function_t values;

  BX_CPU(lp)->cpuid->get_cpuid_leaf(leaf, sub, &values);
  out[0] = values.eax;
  out[1] = values.ebx;
  out[2] = values.ecx;
  out[3] = values.edx;
}

extern "C" uint64_t tdx_machine_msr(uint32_t lp, uint32_t index)
{
  Bit64u value = 0;

  return BX_CPU(lp)->rdmsr(index, &value) ? value : 0;
}

extern "C" void tdx_machine_invept(uint32_t lp, uint64_t eptp)
{
  tdx_tlb_invept(lp, eptp);
  BX_CPU(lp)->TLB_flush();
}

extern "C" void tdx_machine_log(const char *line)
{
  if (tdx_log) {
    fputs(line, tdx_log);
    fputc('\n', tdx_log);
    fflush(tdx_log);
  }
}

extern "C" void tdx_machine_panic(const char *message)
{
  BX_CPU(0)->panic("TDX module: %s", message);
}

// --- registers

void BX_CPU_C::tdx_get_regs(struct tdx_regs *r)
{
  *r = (struct tdx_regs){ RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
}

void BX_CPU_C::tdx_set_regs(const struct tdx_regs *r)
{
  RAX = r->rax;
  RCX = r->rcx;
  RDX = r->rdx;
  RBX = r->rbx;
  RBP = r->rbp;
  RSI = r->rsi;
  RDI = r->rdi;
  R8 = r->r8;
  R9 = r->r9;
  R10 = r->r10;
  R11 = r->r11;
  R12 = r->r12;
  R13 = r->r13;
  R14 = r->r14;
  R15 = r->r15;
}

struct tdx_vcpu *tdx_vcpu_of(Bit64u tdvpr)
{
  static std::map<Bit64u, struct tdx_vcpu *> vcpus;
  struct tdx_vcpu *&v = vcpus[tdvpr];
  if (!v)
    v = new struct tdx_vcpu();
  return v;
}

// --- the instructions

void BX_CPP_AttrRegparmN(1) BX_CPU_C::SEAMCALL(bxInstruction_c *i)
{
  if (!BX_CPU_THIS_PTR in_vmx)
    exception(BX_UD_EXCEPTION, 0);
  if (BX_CPU_THIS_PTR in_vmx_guest)
    VMexit(VMX_VMEXIT_SEAMCALL, 0);
  if (CPL != 0)
    exception(BX_GP_EXCEPTION, 0);

  clearEFlagsOSZAPC();
  if (RAX >> 63) { // there is no P-SEAMLDR
    assert_CF();
    BX_NEXT_TRACE(i);
  }

  tdx_start();
  struct tdx_regs regs;
  tdx_get_regs(&regs);
  if ((regs.rax & 0xffff) == PHYMEM_CACHE_WB)
    tdx_write_back();
  switch (tdx_emu_seamcall(BX_CPU_ID, &regs)) {
  case TDX_CALL_DONE:
    tdx_set_regs(&regs);
    break;
  case TDX_CALL_ENTERED:
    tdx_enter(i);
    return;
  case TDX_CALL_VMFAILINVALID:
    assert_CF();
    break;
  }
  BX_NEXT_TRACE(i);
}

void BX_CPP_AttrRegparmN(1) BX_CPU_C::TDCALL(bxInstruction_c *i)
{
  if (!BX_CPU_THIS_PTR tdx)
    exception(BX_UD_EXCEPTION, 0);
  if (CPL != 0)
    exception(BX_GP_EXCEPTION, 0);

  struct tdx_regs guest, host;
  Bit64u rip;
  tdx_get_regs(&guest);
  tdx_tell(BX_CPU_THIS, BX_CPU_ID);
  switch (tdx_emu_tdcall(BX_CPU_ID, &guest, BX_CPU_THIS_PTR prev_rip, &host)) {
  case TDX_GUEST_EXIT:
    // All but TDG.VP.VMCALL are to be repeated.
    if ((host.rax & 0xffff) != VMX_VMEXIT_TDCALL)
      RIP = BX_CPU_THIS_PTR prev_rip;
    tdx_leave(Bit32u(host.rax & 0xffff), host.rcx, &host);
    break;
  case TDX_GUEST_STAYS:
    tdx_emu_load(BX_CPU_ID, &guest, &rip);
    tdx_set_regs(&guest);
    RIP = rip;
    break;
  case TDX_GUEST_VE:
    tdx_inject_ve(VMX_VMEXIT_EPT_VIOLATION, 0, 0, host.rcx);
    break;
  case TDX_GUEST_NONE:
    BX_PANIC(("the TDX module is dead"));
    break;
  }
  BX_NEXT_TRACE(i);
}
