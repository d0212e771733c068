/*
 * The yardstick of specimen.py: what a fresh child, one PR_SET_MM_MAP call in it, and the same reads
 * of /proc cost in C: fork, prctl, nine or ten reads, kill, wait. Arguments: how many rounds, and
 * "smaps" to read that as well. Prints nanoseconds for one round.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>
#include "own_map.h"

static char buffer[1 << 16];

static void read_whole(int pid, const char *name)
{
	char path[64];
	int file;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	file = open(path, O_RDONLY | O_CLOEXEC);
	while (file >= 0 && read(file, buffer, sizeof(buffer)) > 0)
		;
	close(file);
}

static void round_trip(struct prctl_mm_map *map, int smaps)
{
	static const char *const files[] = { "stat", "statm", "status", "maps", "auxv", "cmdline",
					     "environ", "limits" };
	int ready[2], pid;
	char path[64], answer = 1;

	if (pipe2(ready, O_CLOEXEC))
		exit(2);
	pid = fork();
	if (!pid) {
		answer = prctl(PR_SET_MM, PR_SET_MM_MAP, map, sizeof(*map), 0) != 0;
		if (write(ready[1], &answer, 1) == 1)
			pause();
		_exit(0);
	}
	if (read(ready[0], &answer, 1) != 1 || answer)
		exit(3);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		read_whole(pid, files[i]);
	if (smaps)
		read_whole(pid, "smaps");
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	if (readlink(path, buffer, sizeof(buffer)) < 0)
		exit(4);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(ready[0]);
	close(ready[1]);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 100, smaps = argc > 2;
	struct prctl_mm_map map = own_map();
	struct timespec start, end;

	round_trip(&map, smaps);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 0; i < rounds; i++)
		round_trip(&map, smaps);
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%lld\n", nanoseconds(start, end) / rounds);
	return 0;
}
