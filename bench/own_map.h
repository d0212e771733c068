/* What the yardsticks share: the map that changes nothing, and the time that went by. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <linux/prctl.h>

/* Ten members from stat, brk by asking. */
static inline struct prctl_mm_map own_map(void)
{
	static char text[4096];
	unsigned long long field[52] = { 0 };
	struct prctl_mm_map map = { .exe_fd = -1 };
	FILE *stat = fopen("/proc/self/stat", "r");
	char *next = stat && fgets(text, sizeof(text), stat) ? strrchr(text, ')') + 4 : NULL;

	if (stat)
		fclose(stat);
	for (int i = 3; next && i < 52; i++)
		field[i] = strtoull(next, &next, 10);
	map.start_code = field[25], map.end_code = field[26], map.start_stack = field[27];
	map.start_data = field[44], map.end_data = field[45], map.start_brk = field[46];
	map.arg_start = field[47], map.arg_end = field[48];
	map.env_start = field[49], map.env_end = field[50];
	map.brk = (unsigned long)syscall(SYS_brk, 0);
	return map;
}

/* The process's auxiliary vector; returns its bytes. */
static inline unsigned int own_vector(void *vector, size_t room)
{
	int file = open("/proc/self/auxv", O_RDONLY | O_CLOEXEC);
	ssize_t size = read(file, vector, room);

	close(file);
	return size < 0 ? 0 : (unsigned int)size;
}

static inline long long nanoseconds(struct timespec start, struct timespec end)
{
	return (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec;
}
