// SPDX-License-Identifier: GPL-2.0
//
// What a logical processor remembers of secure EPTs. Bochs forgets its TLB at each
// VM entry and exit; hardware does not, and neither do these translations. They
// are tagged with the EPT pointer, so all vCPUs of a TD share them on one
// processor, and end when
//
//   - the TDX module says INVEPT: at VP.ENTER in a new epoch or of another vCPU than
//     the last one here, at VP.FLUSH, at TDG.MEM.PAGE.ATTR.WR;
//   - their page is the cause of an EPT violation;
//   - another translation needs the room.
//
// INVEPT of the host does not end them: KVM executes it for shared EPTs and says
// that it does not count on it here.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu.h"
#include "tdx.hh"
#define LOG_THIS BX_CPU_THIS_PTR

#include <vector>

static const unsigned SETS = 128;
static const unsigned WAYS = 16;

struct translation {
  Bit64u eptp; // 0: unused
  bx_phy_address gpa, hpa; // of the page; the latter with the KeyID
  Bit32u access;
  Bit64u entry; // number of the TD entry after which it was made
};

struct store {
  struct translation set[SETS][WAYS];
  Bit8u next[SETS];
  Bit64u entries;
};

static struct {
  Bit64u made, used_later, dropped_by_invept, dropped_by_violation;
} counters;

static struct store *store_of(unsigned lp)
{
  static std::vector<struct store> stores(BX_SMP_PROCESSORS);
  return &stores[lp];
}

static struct translation *find(struct store *s, Bit64u eptp, bx_phy_address gpa)
{
  struct translation *set = s->set[(gpa >> 12) % SETS];

  for (unsigned n = 0; n < WAYS; n++)
    if (set[n].eptp == eptp && set[n].gpa == PPFOf(gpa))
      return &set[n];
  return NULL;
}

void tdx_tlb_entry(unsigned lp)
{
  store_of(lp)->entries++;
}

bool tdx_tlb_find(unsigned lp, Bit64u eptp, bx_phy_address gpa, Bit32u access, bx_phy_address *hpa)
{
  struct store *s = store_of(lp);
  struct translation *t = find(s, eptp, gpa);

  if (!t || (access & ~t->access))
    return false;
  if (t->entry != s->entries)
    counters.used_later++;
  *hpa = t->hpa;
  return true;
}

void tdx_tlb_add(unsigned lp, Bit64u eptp, bx_phy_address gpa, bx_phy_address hpa, Bit32u access)
{
  struct store *s = store_of(lp);
  struct translation *t = find(s, eptp, gpa);
  unsigned set = (gpa >> 12) % SETS;

  if (!t)
    t = &s->set[set][s->next[set]++ % WAYS];
  *t = (struct translation){ eptp, PPFOf(gpa), PPFOf(hpa), access, s->entries };
  counters.made++;
}

void tdx_tlb_violation(unsigned lp, Bit64u eptp, bx_phy_address gpa)
{
  struct translation *t = find(store_of(lp), eptp, gpa);

  if (t) {
    t->eptp = 0;
    counters.dropped_by_violation++;
  }
}

void tdx_tlb_invept(unsigned lp, Bit64u eptp)
{
  struct store *s = store_of(lp);

  for (unsigned set = 0; set < SETS; set++)
    for (unsigned n = 0; n < WAYS; n++)
      if (s->set[set][n].eptp == eptp) {
        s->set[set][n].eptp = 0;
        counters.dropped_by_invept++;
      }
}

// One line for the log of calls.
void tdx_tlb_report(FILE *log)
{
  fprintf(log, "{\"translations\":{\"made\":" FMT_LL "u,\"used_after_a_later_entry\":" FMT_LL "u,"
    "\"dropped_by_invept\":" FMT_LL "u,\"dropped_by_violation\":" FMT_LL "u}}\n",
    counters.made, counters.used_later, counters.dropped_by_invept, counters.dropped_by_violation);
}
