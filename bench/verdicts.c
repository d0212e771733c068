/*
 * The yardstick of verdicts.py: PR_SET_MM_MAP for every map of an array, one errno byte stored for
 * each. Arguments: "valid", "refused" or "auxv", and how many. Prints nanoseconds for the whole loop.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include "own_map.h"

int main(int argc, char **argv)
{
	static __u64 vector[64];
	size_t count = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	struct prctl_mm_map *maps = malloc(count * sizeof(*maps)), map = own_map();
	unsigned char *errnos = malloc(count);
	struct timespec start, end;

	if (!count || !maps || !errnos)
		return 2;
	if (!strcmp(argv[1], "refused"))
		map.start_code = 0;
	if (!strcmp(argv[1], "auxv")) {
		map.auxv = vector;
		map.auxv_size = own_vector(vector, sizeof(vector));
	}
	for (size_t i = 0; i < count; i++)
		maps[i] = map;
	memset(errnos, 255, count);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (size_t i = 0; i < count; i++)
		errnos[i] = prctl(PR_SET_MM, PR_SET_MM_MAP, &maps[i], sizeof(map), 0) ? errno : 0;
	clock_gettime(CLOCK_MONOTONIC, &end);
	for (size_t i = 0; i < count; i++)
		if (errnos[i] != (map.start_code ? 0 : EINVAL))
			return 3;
	printf("%lld\n", nanoseconds(start, end));
	return 0;
}
