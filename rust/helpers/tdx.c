// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>

#include <asm/asm.h>
#include <asm/cacheflush.h>
#include <asm/processor.h>
#include <asm/trapnr.h>

#include "../ffi.h"

/*
 * RAX after a SEAMCALL that never reached a TDX module: the error bit and a
 * class that no module uses. The instruction faulted, and the lower bits are the
 * number of the trap; or it set CF, and they are these.
 */
#define SEAMCALL_FAILED		0x8000ff0000000000
#define SEAMCALL_VMFAILINVALID	(SEAMCALL_FAILED | 0xffff0000)

/*
 * SEAMCALL, for leaves that take no other operands than these. The module leaves
 * all other registers alone, but for R9 to R11, which are outputs of some leaves.
 */
u64 privmemfd_helper_seamcall(struct privmemfd_seamcall *regs)
{
	u64 rax = regs->leaf, rcx = regs->rcx, rdx = regs->rdx, in = regs->r8;
	/*
	 * R8 is not kept over calls, and each access to memory is one if it is
	 * checked: nothing comes between this and the instruction.
	 */
	register u64 r8 asm("r8") = in;

	asm volatile("1:	.byte	0x66, 0x0f, 0x01, 0xcf\n"
		     "	jnc	3f\n"
		     "	movq	%[vmfailinvalid], %%rax\n"
		     "	jmp	3f\n"
		     /* A fault leaves its number in RAX. */
		     "2:	orq	%[failed], %%rax\n"
		     "3:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a" (rax), "+c" (rcx), "+d" (rdx), "+r" (r8)
		     : [vmfailinvalid] "r" (SEAMCALL_VMFAILINVALID),
		       [failed] "r" (SEAMCALL_FAILED)
		     : "cc", "memory", "r9", "r10", "r11");
	regs->rcx = rcx;
	regs->rdx = rdx;

	return rax;
}

/*
 * A private KeyID goes above the physical address, which the kernel counts
 * without the bits that are set aside for KeyIDs.
 */
u64 privmemfd_helper_with_keyid(u64 hpa, u16 hkid)
{
	return hpa | (u64)hkid << boot_cpu_data.x86_phys_bits;
}

/*
 * Write back and forget what the host's KeyID has of a page in the caches: a line
 * that is evicted after the page has become the TD's would overwrite it.
 */
void privmemfd_helper_flush_folio(struct folio *folio)
{
	clflush_cache_range(folio_address(folio), PAGE_SIZE);
}
