// SPDX-License-Identifier: GPL-2.0
/*
 * Life and death of a TD.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cacheflush.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>

#include "seamcall.h"
#include "sys.h"
#include "td.h"
#include "uapi_tdhost.h"

#define VCPUS_MAX 64
/* Pages below one entry of each level of the secure EPT. */
#define PAGES_2M 512

/**
 * td_give_control_page - a page that the module may keep until the TD is gone
 * @td: the TD
 * @pa: out: its address
 *
 * Context: May sleep.
 * Return: 0, -ENOMEM.
 */
int td_give_control_page(struct td *td, u64 *pa)
{
	struct page *page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);

	if (!page)
		return -ENOMEM;
	/* No line of the host may be written back over what the module stores. */
	clflush_cache_range(page_address(page), PAGE_SIZE);
	td->control[td->nr_control++] = page;
	*pa = page_to_phys(page);
	return 0;
}

/* How many pages the module gets for a TD of this size, at most. */
static unsigned long max_control(unsigned long pages, unsigned int vcpus)
{
	unsigned long tables = DIV_ROUND_UP(pages, PAGES_2M) +
			       DIV_ROUND_UP(pages, PAGES_2M * 512UL) +
			       DIV_ROUND_UP(pages, PAGES_2M * 512UL * 512);

	return 1 + tdx_tdcs_pages() + (unsigned long)vcpus * tdx_tdvps_pages() + tables;
}

static u64 key_config(u64 tdr)
{
	return tdx_call(TDH_MNG_KEY_CONFIG, .rcx = tdr);
}

static int mng_init(struct td *td)
{
	u64 *params = (u64 *)get_zeroed_page(GFP_KERNEL);
	int ret;

	if (!params)
		return -ENOMEM;
	params[TD_PARAMS_ATTRIBUTES] = td->debug ? TD_ATTRIBUTE_DEBUG : 0;
	params[TD_PARAMS_XFAM] = TD_XFAM;
	params[TD_PARAMS_MAX_VCPUS] = td->nr_vcpus;
	params[TD_PARAMS_EPTP_CONTROLS] = TD_EPTP_CONTROLS;
	params[TD_PARAMS_TSC_FREQUENCY] = TD_TSC_FREQUENCY;
	ret = tdx_report("TDH.MNG.INIT",
			 tdx_call(TDH_MNG_INIT, .rcx = td->gmem.tdr,
				  .rdx = virt_to_phys(params)));
	free_page((unsigned long)params);
	return ret;
}

/* Makes the TD proper: keys, control structures, tables, vCPUs. */
static int build(struct td *td)
{
	unsigned int i;
	u64 pa;
	int ret;

	ret = tdx_on_each_package(key_config, td->gmem.tdr, "TDH.MNG.KEY.CONFIG");
	for (i = 0; !ret && i < tdx_tdcs_pages(); i++) {
		ret = td_give_control_page(td, &pa);
		if (!ret)
			ret = tdx_report("TDH.MNG.ADDCX",
					 tdx_call(TDH_MNG_ADDCX, .rcx = pa, .rdx = td->gmem.tdr));
	}
	if (!ret)
		ret = mng_init(td);
	if (!ret)
		ret = td_build_sept(td);
	for (i = 0; !ret && i < td->nr_vcpus; i++)
		ret = vcpu_create(td, i);
	return ret;
}

static void free_control_page(struct page *page, const char *what)
{
	u64 status = tdx_call(TDH_PHYMEM_PAGE_RECLAIM, .rcx = page_to_phys(page));

	if (tdx_report(what, status))
		td_count_leak(what, page_to_phys(page));
	else
		__free_page(page);
}

/*
 * The opposite of build() and of MNG.CREATE. Relocations find the TD dead, and
 * faults cannot happen any more.
 */
static void tear_down(struct td *td)
{
	struct address_space *mapping = td->file->f_mapping;
	u16 hkid = td->gmem.hkid;
	unsigned int i;
	u64 status;
	int ret;

	for (i = 0; i < td->nr_vcpus; i++)
		vcpu_flush(&td->vcpus[i]);

	/* What cannot be removed from the TD leaves the file. */
	filemap_invalidate_lock(mapping);
	td_zap(td, 0, td->nr_pages);
	host_unbind(td);
	filemap_invalidate_unlock(mapping);

	ret = tdx_hkid_flush(td->gmem.tdr);
	if (ret)
		td_leak_kept(td);
	else
		td_reclaim_kept(td);

	if (ret) {
		pr_err("KeyID %u and %u pages of a TD are lost\n", hkid, td->nr_control);
		return;
	}
	/* The TDR comes last: it counts the others. */
	for (i = td->nr_control - 1; i > 0; i--)
		free_control_page(td->control[i], "TDH.PHYMEM.PAGE.RECLAIM");
	status = tdx_call(TDH_PHYMEM_PAGE_RECLAIM, .rcx = td->gmem.tdr);
	if (!tdx_report("TDH.PHYMEM.PAGE.RECLAIM of the TDR", status))
		status = tdx_call(TDH_PHYMEM_PAGE_WBINVD,
				  .rcx = tdx_with_hkid(td->gmem.tdr, tdx_global_hkid()));
	if (tdx_report("TDH.PHYMEM.PAGE.WBINVD of the TDR", status))
		td_count_leak("TDR", td->gmem.tdr);
	else
		__free_page(td->control[0]);
	tdx_hkid_free(hkid);
}

static void free_td(struct td *td)
{
	if (td->file)
		fput(td->file);
	free_cpumask_var(td->kick_mask);
	xa_destroy(&td->kept);
	kvfree(td->control);
	kvfree(td->pfns);
	kfree(td->vcpus);
	kfree(td);
}

static struct td *alloc_td(const struct tdhost_create *arg)
{
	struct td *td = kzalloc_obj(*td, GFP_KERNEL_ACCOUNT);
	unsigned int i;

	if (!td)
		return NULL;
	rwlock_init(&td->lock);
	xa_init(&td->kept);
	td->gmem.kick = td_kick;
	td->gmem.hold = td_hold;
	td->gmem.release = td_release;
	td->nr_pages = arg->pages;
	td->nr_vcpus = arg->vcpus;
	td->debug = arg->flags & TDHOST_TD_DEBUG;
	td->pfns = kvzalloc_objs(*td->pfns, arg->pages, GFP_KERNEL_ACCOUNT);
	td->control = kvzalloc_objs(*td->control, max_control(arg->pages, arg->vcpus),
				    GFP_KERNEL_ACCOUNT);
	td->vcpus = kzalloc_objs(*td->vcpus, arg->vcpus, GFP_KERNEL_ACCOUNT);
	if (!td->pfns || !td->control || !td->vcpus ||
	    !zalloc_cpumask_var(&td->kick_mask, GFP_KERNEL_ACCOUNT)) {
		free_td(td);
		return NULL;
	}
	for (i = 0; i < td->nr_vcpus; i++) {
		mutex_init(&td->vcpus[i].mutex);
		td->vcpus[i].cpu = -1;
	}
	return td;
}

static int get_memory(struct td *td, int fd)
{
	td->file = fget(fd);
	if (!td->file)
		return -EBADF;
	if (td->file->f_op != provider->fops ||
	    i_size_read(file_inode(td->file)) >> PAGE_SHIFT < td->nr_pages)
		return -EINVAL;
	td->bindings = provider->bindings(td->file);
	return 0;
}

/**
 * td_create - make a TD
 * @arg: how; fields that are flags or reserved have been checked
 *
 * Context: May sleep.
 * Return: the TD, or an ERR_PTR, see TDHOST_CREATE_TD.
 */
struct td *td_create(const struct tdhost_create *arg)
{
	struct td *td;
	int ret;

	/* The last number keeps GPAs below the shared bit. */
	if (!arg->pages || arg->pages > 1UL << 34 || arg->vcpus > VCPUS_MAX || !arg->vcpus)
		return ERR_PTR(-EINVAL);
	td = alloc_td(arg);
	if (!td)
		return ERR_PTR(-ENOMEM);
	ret = get_memory(td, arg->memory);
	if (ret)
		goto free;

	ret = tdx_hkid_alloc();
	if (ret < 0) {
		ret = ret == -ENOSPC ? -EBUSY : ret;
		goto free;
	}
	td->gmem.hkid = ret;
	ret = td_give_control_page(td, &td->gmem.tdr);
	if (ret)
		goto free_hkid;
	ret = host_bind(td);
	if (ret)
		goto free_tdr;
	ret = tdx_report("TDH.MNG.CREATE",
			 tdx_call(TDH_MNG_CREATE, .rcx = td->gmem.tdr, .rdx = td->gmem.hkid));
	if (ret)
		goto unbind;
	ret = build(td);
	if (!ret)
		return td;
	tear_down(td);
	free_td(td);
	return ERR_PTR(ret);

unbind:
	filemap_invalidate_lock(td->file->f_mapping);
	host_unbind(td);
	filemap_invalidate_unlock(td->file->f_mapping);
free_tdr:
	__free_page(td->control[0]);
free_hkid:
	tdx_hkid_free(td->gmem.hkid);
free:
	free_td(td);
	return ERR_PTR(ret);
}

/* td_destroy - the last user is gone. May sleep. */
void td_destroy(struct td *td)
{
	tear_down(td);
	free_td(td);
}

/* td_finalize - the TD may run. May sleep. Returns 0, -EBUSY, -EIO. */
int td_finalize(struct td *td)
{
	int ret = -EBUSY;

	write_lock(&td->lock);
	if (td->dead)
		ret = -EIO;
	else if (!td->gmem.runnable)
		ret = tdx_report("TDH.MR.FINALIZE",
				 tdx_call(TDH_MR_FINALIZE, .rcx = td->gmem.tdr));
	if (!ret)
		td->gmem.runnable = true;
	write_unlock(&td->lock);
	return ret;
}
