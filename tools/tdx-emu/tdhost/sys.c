// SPDX-License-Identifier: GPL-2.0
/*
 * Bringing the TDX module up.
 *
 * There is no call that takes it down again: once up it keeps its PAMTs. If it
 * is still up when this module goes, they stay with it, and the next load of
 * this module goes on with what it finds. If it has gone first, or has been reset
 * (an emulator can do both), the memory is given back.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bits.h>
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/idr.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/topology.h>
#include <asm/processor.h>

#include "seamcall.h"
#include "sys.h"
#include "tdmr.h"

static unsigned short first_hkid = 32;
module_param(first_hkid, ushort, 0444);
MODULE_PARM_DESC(first_hkid, "first private KeyID; the TDX module's own");
static unsigned short last_hkid = 63;
module_param(last_hkid, ushort, 0444);
MODULE_PARM_DESC(last_hkid, "last private KeyID");

static DEFINE_IDA(hkids);
/* Whoever makes or flushes keys; two at a time would find the module busy. */
static DEFINE_MUTEX(key_lock);
static struct tdmr_list tdmrs;
static unsigned int tdcs_pages, tdvps_pages;

unsigned int tdx_tdcs_pages(void)
{
	return tdcs_pages;
}

unsigned int tdx_tdvps_pages(void)
{
	return tdvps_pages;
}

u16 tdx_global_hkid(void)
{
	return first_hkid;
}

/* tdx_hkid_alloc - a private KeyID, or an errno. May sleep. */
int tdx_hkid_alloc(void)
{
	return ida_alloc_range(&hkids, first_hkid + 1, last_hkid, GFP_KERNEL);
}

void tdx_hkid_free(u16 hkid)
{
	ida_free(&hkids, hkid);
}

/* tdx_with_hkid - a physical address as the module takes it for flushes */
u64 tdx_with_hkid(u64 pa, u16 hkid)
{
	return pa | (u64)hkid << boot_cpu_data.x86_phys_bits;
}

struct package_call {
	u64 (*call)(u64 arg);
	u64 arg;
	u64 status;
};

static int call_here(void *data)
{
	struct package_call *c = data;

	c->status = c->call(c->arg);
	return 0;
}

/**
 * tdx_on_each_package - call the module on one CPU of each package
 * @call: makes the call, in a task: some calls take long, or want entropy
 * @arg: its argument
 * @what: name of the leaf for messages
 *
 * Context: May sleep.
 * Return: 0, or the errno of the first call that failed.
 */
int tdx_on_each_package(u64 (*call)(u64 arg), u64 arg, const char *what)
{
	struct package_call c = { .call = call, .arg = arg };
	cpumask_var_t seen;
	int cpu, ret = 0;

	if (!zalloc_cpumask_var(&seen, GFP_KERNEL))
		return -ENOMEM;
	cpus_read_lock();
	for_each_online_cpu(cpu) {
		if (cpumask_test_and_set_cpu(topology_physical_package_id(cpu), seen))
			continue;
		ret = smp_call_on_cpu(cpu, call_here, &c, false) ?: tdx_report(what, c.status);
		if (ret)
			break;
	}
	cpus_read_unlock();
	free_cpumask_var(seen);
	return ret;
}

static u64 cache_wb(u64 unused)
{
	u64 status = tdx_call(TDH_PHYMEM_CACHE_WB, .rcx = 0);

	while (tdx_is(status, TDX_INTERRUPTED_RESUMABLE))
		status = tdx_call(TDH_PHYMEM_CACHE_WB, .rcx = 1);
	return tdx_is(status, TDX_NO_HKID_READY_TO_WBCACHE) ? TDX_SUCCESS : status;
}

/**
 * tdx_hkid_flush - take the KeyID from a TD whose vCPUs are all flushed
 * @tdr: the TD
 *
 * Context: May sleep.
 * Return: 0; an errno means that the KeyID stays with the TD for ever.
 */
int tdx_hkid_flush(u64 tdr)
{
	int ret;

	mutex_lock(&key_lock);
	ret = tdx_report("TDH.MNG.VPFLUSHDONE", tdx_call(TDH_MNG_VPFLUSHDONE, .rcx = tdr));
	if (!ret)
		ret = tdx_on_each_package(cache_wb, 0, "TDH.PHYMEM.CACHE.WB");
	if (!ret)
		ret = tdx_report("TDH.MNG.KEY.FREEID", tdx_call(TDH_MNG_KEY_FREEID, .rcx = tdr));
	mutex_unlock(&key_lock);
	return ret;
}

static void lp_init(void *failed)
{
	u64 status = tdx_call(TDH_SYS_LP_INIT);

	if (!tdx_is(status, TDX_SYS_LP_INIT_DONE) && tdx_report("TDH.SYS.LP.INIT", status))
		atomic_inc(failed);
}

static u64 key_config(u64 unused)
{
	u64 status = tdx_call(TDH_SYS_KEY_CONFIG);

	return tdx_is(status, TDX_KEY_CONFIGURED) ? TDX_SUCCESS : status;
}

static int config(void)
{
	unsigned int i;
	u64 *list;
	int ret;

	/* Aligned because of its size. */
	list = kzalloc_objs(*list, TDX_TDMR_MAX);
	if (!list)
		return -ENOMEM;
	for (i = 0; i < tdmrs.nr; i++)
		list[i] = virt_to_phys(&tdmrs.info[i]);
	ret = tdx_report("TDH.SYS.CONFIG",
			 tdx_call(TDH_SYS_CONFIG, .rcx = virt_to_phys(list),
				  .rdx = tdmrs.nr, .r8 = first_hkid));
	kfree(list);
	return ret;
}

static int init_tdmr(const struct tdmr_info *info)
{
	struct tdx_regs regs;
	int ret;

	do {
		regs = (struct tdx_regs){ .rcx = info->base };
		ret = tdx_report("TDH.SYS.TDMR.INIT", tdx_seamcall(TDH_SYS_TDMR_INIT, &regs));
		if (ret)
			return ret;
		cond_resched();
	} while (regs.rdx < info->base + info->size);
	return 0;
}

static int bring_up(void)
{
	atomic_t failed = ATOMIC_INIT(0);
	ktime_t start = ktime_get();
	unsigned int i;
	int ret;

	cpus_read_lock();
	on_each_cpu(lp_init, &failed, 1);
	cpus_read_unlock();
	if (atomic_read(&failed))
		return -EIO;
	ret = tdmr_build(&tdmrs);
	if (ret) {
		pr_err("memory cannot be described to the TDX module: %d\n", ret);
		return ret;
	}
	ret = config();
	if (ret)
		goto free_pamts;
	ret = tdx_on_each_package(key_config, 0, "TDH.SYS.KEY.CONFIG");
	for (i = 0; !ret && i < tdmrs.nr; i++)
		ret = init_tdmr(&tdmrs.info[i]);
	tdmr_free_info(&tdmrs);
	if (!ret)
		pr_info("TDX module up in %lld ms: %u TDMRs, %lu MiB of PAMT\n",
			ktime_ms_delta(ktime_get(), start), tdmrs.nr,
			tdmr_pamt_bytes(&tdmrs) >> 20);
	return ret;

free_pamts:
	tdmr_free_info(&tdmrs);
	tdmr_free_pamts(&tdmrs);
	return ret;
}

static int read_size(u64 field, unsigned int *pages)
{
	struct tdx_regs regs = { .rdx = field };
	int ret = tdx_report("TDH.SYS.RD", tdx_seamcall(TDH_SYS_RD, &regs));

	*pages = regs.r8 / PAGE_SIZE;
	return ret ?: *pages ? 0 : -EIO;
}

/**
 * tdx_sys_init - make the TDX module ready for TDs
 *
 * Context: May sleep.
 * Return: 0, -ENODEV if there is none, -EIO if it is in an unknown state.
 */
int tdx_sys_init(void)
{
	u64 status = tdx_call(TDH_SYS_INIT);
	int ret;

	if (tdx_is(status, TDX_SYS_INIT_NOT_PENDING)) {
		/* Any call that is refused before the module is ready. */
		status = tdx_call(TDH_PHYMEM_PAGE_RDMD, .rcx = ~0ULL);
		if (tdx_is(status, TDX_SYS_NOT_READY))
			return tdx_report("TDH.PHYMEM.PAGE.RDMD", status);
		pr_info("the TDX module was up already\n");
	} else {
		ret = tdx_report("TDH.SYS.INIT", status) ?: bring_up();
		if (ret)
			goto fail;
	}
	ret = read_size(TDX_FIELD_TDCS_BASE_SIZE, &tdcs_pages);
	if (!ret)
		ret = read_size(TDX_FIELD_TDVPS_BASE_SIZE, &tdvps_pages);
	if (!ret)
		return 0;
fail:
	tdx_sys_exit();
	return ret;
}

/* tdx_sys_exit - no TD exists any more. May sleep. */
void tdx_sys_exit(void)
{
	struct tdx_regs regs = { .rdx = TDX_FIELD_TDCS_BASE_SIZE };
	u64 status;

	ida_destroy(&hkids);
	if (!tdmr_pamt_bytes(&tdmrs))
		return;
	status = tdx_seamcall(TDH_SYS_RD, &regs);
	if (tdx_is_absent(status) || tdx_is(status, TDX_SYS_LP_INIT_NOT_DONE))
		tdmr_free_pamts(&tdmrs);
	else
		pr_warn("%lu MiB of PAMT stay with the TDX module\n",
			tdmr_pamt_bytes(&tdmrs) >> 20);
}
