// SPDX-License-Identifier: GPL-2.0
//
// Encrypted memory. What Bochs keeps for a page is its content as seen through
// one KeyID, its view: ciphertext through KeyID 0, plain text through that of its
// TD. An access through another KeyID changes the view first; it plays the part
// of the caches. Through a private KeyID that is not the owner's there is noise.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu.h"
#include "pc_system.h"
#include "memory/memory-bochs.h"
#include "tdx.hh"
#define LOG_THIS BX_CPU_THIS_PTR

Bit8u *tdx_views;
static Bit64u pages;

// From now on TD memory is encrypted.
void tdx_views_init(Bit64u memory)
{
  pages = memory >> 12;
  tdx_views = new Bit8u[pages]();
}

static bx_hostpageaddr_t host_page(Bit64u page)
{
  return (bx_hostpageaddr_t)BX_MEM(0)->get_vector(page << 12);
}

// Translations stay, but accesses through them come by tdx_touch() again.
void BX_CPU_C::tdx_drop_pointers(bx_hostpageaddr_t page)
{
  static const Bit32u NO_HOST_POINTER = 0x800; // TLB_NoHostPtr of paging.cc

  for (unsigned n = 0; n < BX_DTLB_SIZE; n++) {
    bx_TLB_entry *e = &BX_CPU_THIS_PTR DTLB.entry[n];
    if (e->valid() && e->hostPageAddr == page) {
      e->hostPageAddr = 0;
      e->lpf |= NO_HOST_POINTER;
    }
  }
  for (unsigned n = 0; n < BX_ITLB_SIZE; n++) {
    bx_TLB_entry *e = &BX_CPU_THIS_PTR ITLB.entry[n];
    if (e->valid() && e->hostPageAddr == page) {
      e->hostPageAddr = 0;
      e->lpf |= NO_HOST_POINTER;
    }
  }
}

// No CPU may use a pointer to the page that it got for another view. The CPU
// that accesses it now is about to get one for its code or its stack.
static void drop_pointers(BX_CPU_C *cpu, Bit64u page)
{
  for (unsigned i = 0; i < BX_SMP_PROCESSORS; i++) {
    BX_CPU(i)->tdx_drop_pointers(host_page(page));
    if (BX_CPU(i) != cpu) {
      BX_CPU(i)->invalidate_prefetch_q();
      BX_CPU(i)->invalidate_stack_cache();
    }
  }
}

static void conceal(BX_CPU_C *cpu, Bit64u page)
{
  Bit8u keyid = tdx_views[page];

  if (!keyid)
    return;
  drop_pointers(cpu, page);
  tdx_views[page] = 0;
  tdx_emu_conceal(keyid, page << 12);
}

void tdx_change_view(BX_CPU_C *cpu, bx_phy_address addr)
{
  Bit64u page = (addr & BX_KEYID_MASK) >> 12;
  Bit8u keyid = Bit8u(addr >> TDX_KEYID_SHIFT);

  if (page >= pages || tdx_views[page] == keyid)
    return;
  conceal(cpu, page);
  if (!keyid)
    return;
  drop_pointers(cpu, page);
  if (tdx_emu_reveal(keyid, page << 12))
    tdx_views[page] = keyid;
  else
    cpu->tdx_poisoned();
}

// Caches are written back: memory holds ciphertext.
void tdx_write_back(void)
{
  for (Bit64u page = 0; tdx_views && page < pages; page++)
    conceal(NULL, page);
}

extern "C" void tdx_machine_flush_page(uint64_t pa)
{
  tdx_touch(NULL, pa);
}

// --- the module's accesses: all of memory through KeyID 0

extern "C" uint64_t tdx_machine_read(uint64_t pa)
{
  tdx_touch(NULL, pa);
  return *(Bit64u *)BX_MEM(0)->get_vector(pa);
}

extern "C" void tdx_machine_write(uint64_t pa, uint64_t value)
{
  tdx_touch(NULL, pa);
  pageWriteStampTable.decWriteStamp(pa, 8);
  *(Bit64u *)BX_MEM(0)->get_vector(pa) = value;
}
