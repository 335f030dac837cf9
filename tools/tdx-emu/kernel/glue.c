// SPDX-License-Identifier: GPL-2.0
/*
 * The trap that SEAMCALL takes on a CPU without it, and small services of the
 * kernel for the Rust part of the module.
 */

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/ioport.h>
#include <linux/kdebug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pfn.h>
#include <linux/preempt.h>
#include <linux/random.h>
#include <linux/siphash.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <asm/apic.h>
#include <asm/processor.h>
#include <asm/trapnr.h>
#include <asm/tsc.h>

#include "glue.h"

/* What it answers is not to be trusted: the kernel is tainted, and says so. */
MODULE_INFO(test, "Y");

/* 66 0F 01 CF */
static const u8 seamcall[] = { 0x66, 0x0f, 0x01, 0xcf };

#define ARITHMETIC_FLAGS (X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | \
			  X86_EFLAGS_ZF | X86_EFLAGS_SF | X86_EFLAGS_OF)

static int tdxemu_die(struct notifier_block *nb, unsigned long event, void *data)
{
	struct die_args *args = data;
	struct pt_regs *regs = args->regs;
	struct tdxemu_gprs gprs;
	u8 insn[sizeof(seamcall)];

	if (event != DIE_TRAP || args->trapnr != X86_TRAP_UD || user_mode(regs))
		return NOTIFY_DONE;
	if (copy_from_kernel_nofault(insn, (void *)regs->ip, sizeof(insn)) ||
	    memcmp(insn, seamcall, sizeof(insn)))
		return NOTIFY_DONE;

	gprs = (struct tdxemu_gprs) {
		.rax = regs->ax, .rcx = regs->cx, .rdx = regs->dx, .rbx = regs->bx,
		.rbp = regs->bp, .rsi = regs->si, .rdi = regs->di, .r8 = regs->r8,
		.r9 = regs->r9, .r10 = regs->r10, .r11 = regs->r11, .r12 = regs->r12,
		.r13 = regs->r13, .r14 = regs->r14, .r15 = regs->r15,
	};
	regs->flags &= ~ARITHMETIC_FLAGS;
	if (tdxemu_answer(&gprs))
		regs->flags |= X86_EFLAGS_CF;
	regs->ax = gprs.rax;
	regs->cx = gprs.rcx;
	regs->dx = gprs.rdx;
	regs->bx = gprs.rbx;
	regs->bp = gprs.rbp;
	regs->si = gprs.rsi;
	regs->di = gprs.rdi;
	regs->r8 = gprs.r8;
	regs->r9 = gprs.r9;
	regs->r10 = gprs.r10;
	regs->r11 = gprs.r11;
	regs->r12 = gprs.r12;
	regs->r13 = gprs.r13;
	regs->r14 = gprs.r14;
	regs->r15 = gprs.r15;
	regs->ip += sizeof(seamcall);
	return NOTIFY_STOP;
}

static struct notifier_block tdxemu_nb = {
	.notifier_call = tdxemu_die,
};

/* What random numbers are made of. */
static siphash_key_t random_key;
static atomic64_t random_count = ATOMIC64_INIT(0);

int tdxemu_glue_register(void)
{
	get_random_bytes(&random_key, sizeof(random_key));
	return register_die_notifier(&tdxemu_nb);
}

void tdxemu_glue_unregister(void)
{
	/* Waits for a grace period, and the chain is called under RCU. */
	unregister_die_notifier(&tdxemu_nb);
}

struct ram_walk {
	struct tdxemu_range *ranges;
	unsigned int max, n;
};

static int add_ram(struct resource *res, void *data)
{
	struct ram_walk *walk = data;
	u64 base = PAGE_ALIGN(res->start);
	u64 end = PAGE_ALIGN_DOWN(res->end + 1);

	if (base >= end)
		return 0;
	if (walk->n < walk->max)
		walk->ranges[walk->n] = (struct tdxemu_range) { base, end - base };
	walk->n++;
	return 0;
}

unsigned int tdxemu_glue_ram(struct tdxemu_range *ranges, unsigned int max)
{
	struct ram_walk walk = { ranges, max, 0 };

	walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY,
			    0, -1, &walk, add_ram);
	return walk.n;
}

u64 tdxemu_glue_direct_map(void)
{
	return PAGE_OFFSET;
}

unsigned int tdxemu_glue_phys_bits(void)
{
	return boot_cpu_data.x86_phys_bits;
}

unsigned int tdxemu_glue_cpus(void)
{
	return cpumask_last(cpu_online_mask) + 1;
}

unsigned int tdxemu_glue_tsc_khz(void)
{
	return tsc_khz;
}

unsigned int tdxemu_glue_cpu(void)
{
	return smp_processor_id();
}

bool tdxemu_glue_interrupt_pending(void)
{
	unsigned int reg;

	if (!boot_cpu_has(X86_FEATURE_APIC))
		return false;
	for (reg = APIC_IRR; reg < APIC_IRR + 0x80; reg += 0x10)
		if (apic->read(reg))
			return true;
	return false;
}

/*
 * SEAMCALL is answered with interrupts off, where on PREEMPT_RT the kernel's own random numbers
 * cannot be had: they are behind a lock that sleeps there.
 */
u64 tdxemu_glue_random(void)
{
	return siphash_1u64(atomic64_inc_return(&random_count), &random_key);
}

void tdxemu_glue_delay(unsigned int microseconds)
{
	mdelay(microseconds / 1000);
	udelay(microseconds % 1000);
}

bool tdxemu_glue_pin(void)
{
	return try_module_get(THIS_MODULE);
}

void tdxemu_glue_unpin(void)
{
	module_put(THIS_MODULE);
}

u64 tdxemu_glue_alloc(unsigned int order)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN, order);

	return page ? page_to_phys(page) : 0;
}

void tdxemu_glue_free(u64 pa, unsigned int order)
{
	__free_pages(pfn_to_page(PHYS_PFN(pa)), order);
}

void tdxemu_glue_on_each_cpu(void (*func)(void *data), void *data)
{
	on_each_cpu(func, data, true);
}

void tdxemu_glue_migrate_disable(void)
{
	migrate_disable();
}

void tdxemu_glue_migrate_enable(void)
{
	migrate_enable();
}
