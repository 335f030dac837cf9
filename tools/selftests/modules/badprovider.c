// SPDX-License-Identifier: GPL-2.0
/*
 * badprovider.ko - providers of private memory that KVM must not take
 *
 * Loads if KVM refuses each of them, and a second one beside a good one.
 */
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/kvm_gmem_provider.h>
#include <linux/module.h>

static struct kvm_gmem_bindings *badprovider_bindings(struct file *file)
{
	return NULL;
}

static struct folio *badprovider_get_folio(struct file *file, pgoff_t index)
{
	return ERR_PTR(-ENOMEM);
}

static struct file *badprovider_create(loff_t size)
{
	return ERR_PTR(-ENOMEM);
}

/* No file has them. */
static const struct file_operations badprovider_fops = { .owner = THIS_MODULE };
static const struct file_operations badprovider_unowned_fops;

static const struct kvm_gmem_provider_ops good = {
	.size		= sizeof(good),
	.bindings_size	= sizeof(struct kvm_gmem_bindings),
	.host_size	= sizeof(struct kvm_gmem_host_ops),
	.owner		= THIS_MODULE,
	.fops		= &badprovider_fops,
	.bindings	= badprovider_bindings,
	.get_folio	= badprovider_get_folio,
	.create		= badprovider_create,
};

static int (*register_provider)(const struct kvm_gmem_provider_ops *ops,
				const struct kvm_gmem_host_ops **host);

static int __init refused(const char *what,
			  const struct kvm_gmem_provider_ops *ops, int errno)
{
	const struct kvm_gmem_host_ops *host = NULL;
	int ret = register_provider(ops, &host);

	if (ret == errno && !host)
		return 0;
	pr_err("badprovider: %s: %d, not %d\n", what, ret, errno);
	if (!ret)
		host->unregister(ops);
	return -EINVAL;
}

static int __init refused_each(void)
{
	struct {
		const char *what;
		struct kvm_gmem_provider_ops ops;
	} bad[] = {
		{ "another size", good },
		{ "another size of the bindings", good },
		{ "another size of KVM's table", good },
		{ "no file operations", good },
		{ "no bindings", good },
		{ "no folios", good },
		{ "no files", good },
		{ "files that do not pin it", good },
	};
	int i, ret;

	bad[0].ops.size += sizeof(void *);
	bad[1].ops.bindings_size += sizeof(void *);
	bad[2].ops.host_size += sizeof(void *);
	bad[3].ops.fops = NULL;
	bad[4].ops.bindings = NULL;
	bad[5].ops.get_folio = NULL;
	bad[6].ops.create = NULL;
	bad[7].ops.fops = &badprovider_unowned_fops;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		ret = refused(bad[i].what, &bad[i].ops, -EINVAL);
		if (ret)
			return ret;
	}
	return 0;
}

static int __init badprovider_init(void)
{
	const struct kvm_gmem_host_ops *host;
	int ret;

	register_provider = symbol_get(kvm_gmem_register_provider);
	if (!register_provider)
		return -ENOENT;

	ret = refused_each();
	if (ret)
		goto put;

	ret = register_provider(&good, &host);
	if (ret)
		goto put;
	ret = refused("a second provider", &good, -EBUSY);
	host->unregister(&good);
put:
	symbol_put(kvm_gmem_register_provider);
	return ret;
}
module_init(badprovider_init);

static void __exit badprovider_exit(void)
{
}
module_exit(badprovider_exit);

MODULE_DESCRIPTION("Providers of private memory that KVM has to refuse");
MODULE_LICENSE("GPL");
