/* A process to be checkpointed: so many bytes of memory, every page touched, and then it waits. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words)
{
	size_t size = count > 1 ? strtoul(words[1], 0, 0) : 0;
	unsigned *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return 1;
	for (size_t place = 0; place < size / sizeof *memory; place++)
		memory[place] = place * 2654435761u;
	for (;;)
		pause();
}
