/* SPDX-License-Identifier: MIT */
/* What is opened as a file system on a disk is that file system and no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/holders/fs.h"

/* This process's root, in the list's only file system. */
static int take_root(void *ctx, unsigned ns, const struct cow_mount *mount)
{
	struct cow_fs_list *list = ctx;
	if (strcmp(mount->where, "/"))
		return 0;
	for (unsigned i = 0; i < list->nr; i++)
		free(list->fs[i].mounts);
	struct cow_fs_mount *m = malloc(sizeof(*m));
	assert_non_null(m);
	*m = (struct cow_fs_mount){ ns, mount->id, mount->parent, strdup(mount->root),
				    strdup(mount->where) };
	list->nr = 1;
	list->fs[0] = (struct cow_fs){ .dev = mount->dev, .mounts = m, .nr_mounts = 1, .fd = -1 };
	strcpy(list->fs[0].type, "any");
	return 0;
}

static int find_root(struct cow_fs_list *list)
{
	*list = (struct cow_fs_list){ .stack = { .sys_fd = -1, .dev_fd = -1 },
				      .fs = calloc(1, sizeof(*list->fs)) };
	assert_non_null(list->fs);
	assert_int_equal(cow_mntns_collect(&list->namespaces, COW_MNTNS_OWN), 0);
	assert_int_equal(cow_mounts_each(&list->namespaces, 0, take_root, list), 0);
	return list->nr ? cow_fs_open(list, &list->fs[0]) : -ENOENT;
}

/* A mount's id is given anew: that of ours may be that of another file system when it is opened. */
static void test_another_with_the_id(void **state)
{
	struct cow_fs_list list;
	if (find_root(&list))
		skip(); /* as where / is btrfs or lies in a chroot */
	struct cow_fs *root = &list.fs[0];
	close(root->fd);
	root->fd = -1;
	root->dev = makedev(4095, 1);
	assert_int_equal(cow_fs_open(&list, root), -ESTALE);
	assert_int_equal(root->fd, -1);
	cow_fs_fini(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_another_with_the_id) };
	return cmocka_run_group_tests_name("holders", tests, NULL, NULL);
}
