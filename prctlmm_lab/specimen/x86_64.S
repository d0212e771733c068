/*
 * The specimen's whole program, ELF headers included.
 *
 * It names itself and sends a greeting on descriptor 3, a SOCK_SEQPACKET socket: four words, so that
 * nobody has to look for them in /proc:
 *
 *     0, the address of its buffer, that of its first instruction, and where the heap ends
 *
 * Then it serves requests that arrive there. A request is eight words, and up to 128 bytes of cargo
 * that lie behind them in the buffer, at a known address, while the request is served:
 *
 *     sequence, number, argument 0 .. argument 5
 *
 * The answer is two words: the same sequence, and what the kernel left in rax. The sequence lets the
 * other side notice that bytes on the channel are not an answer. Three kinds of request exist:
 *
 *     number >= 0   make that system call with the six arguments
 *     number = -1   make the call prctl(PR_SET_MM, PR_SET_MM_MAP, map, 104, 0) for an array of maps:
 *                   argument 0 is the array, 1 how many, 2 where to store one errno byte for each
 *     number = -2   move the end of the heap by argument 0 bytes; the answer is how far it moved.
 *                   This can be asked for before anybody knows where the heap is
 *
 * End of file on the channel means exit: the specimen cannot outlive the process that owns it.
 *
 * Nothing here needs the data page, the heap or a C library, and the one buffer lies on the stack
 * and is found through rsp: code, data and heap may be moved, copied or unmapped while it runs.
 *
 * The headers are written by hand, and the link is to a flat binary, so that the file is the same,
 * byte for byte, whichever binutils built it. PIE=0 gives the textbook layout at 0x400000; PIE=1
 * gives a position-independent program without an interpreter, which the kernel places itself.
 */
        .set    CHANNEL, 3
        .set    PAGE, 0x1000
        .set    SYS_read, 0
        .set    SYS_write, 1
        .set    SYS_brk, 12
        .set    SYS_prctl, 157
        .set    SYS_exit_group, 231
        .set    PR_SET_MM, 35
        .set    PR_SET_MM_MAP, 14
        .set    MAP_SIZE, 104
        .set    PR_SET_NAME, 15
        .set    REQUEST, 64
        .set    CARGO, 128
        .set    SCRATCH, 16 * PAGE
        .set    ANSWER, 16
        .set    GREETING, 32
        .set    BATCH, -1
        .set    GROW, -2
        .if PIE
        .set    BASE, 0
        .set    TYPE, 3                 /* ET_DYN */
        .else
        .set    BASE, 0x400000
        .set    TYPE, 2                 /* ET_EXEC */
        .endif

        .text
file:
/* ---- the ELF header, 64 bytes -------------------------------------------------------------- */
        .ascii  "\177ELF"
        .byte   2, 1, 1, 0              /* 64 bits, little endian, version 1, System V */
        .quad   0
        .word   TYPE
        .word   62                      /* EM_X86_64 */
        .long   1
        .quad   BASE + _start - file    /* e_entry */
        .quad   headers - file          /* e_phoff */
        .quad   0                       /* no sections */
        .long   0
        .word   64, 56, (headers_end - headers) / 56
        .word   64, 0, 0

/* ---- the program headers: what the kernel maps, and from it start_code .. end_data --------- */
        .macro  segment type, flags, first, last, align
        .long   \type, \flags
        .quad   \first - file           /* p_offset */
        .quad   BASE + \first - file    /* p_vaddr */
        .quad   BASE + \first - file    /* p_paddr */
        .quad   \last - \first          /* p_filesz */
        .quad   \last - \first          /* p_memsz */
        .quad   \align
        .endm
headers:
        segment 1, 4, file, headers_end, PAGE   /* PT_LOAD  r--: these headers */
        segment 1, 5, code, code_end, PAGE      /* PT_LOAD  r-x: start_code, end_code */
        segment 1, 6, data, data_end, PAGE      /* PT_LOAD  rw-: start_data, end_data */
        .long   0x6474e551, 6                   /* PT_GNU_STACK rw-: a stack without x */
        .quad   0, 0, 0, 0, 0, 16
headers_end:

/* ---- the code ------------------------------------------------------------------------------ */
        .balign PAGE, 0
code:
        .globl  _start
_start:
        sub     $REQUEST + CARGO, %rsp  /* the buffer, below argc and argv */
        and     $-16, %rsp

        mov     $SYS_prctl, %eax
        mov     $PR_SET_NAME, %edi
        lea     name(%rip), %rsi
        syscall

        lea     -SCRATCH(%rsp), %rax    /* where the other side puts what calls read: resident */
        and     $-PAGE, %rax            /* from now on, so that no first use shows in statm */
        movb    $0, (%rax)

        movq    $0, (%rsp)
        mov     %rsp, 8(%rsp)
        lea     _start(%rip), %rax
        mov     %rax, 16(%rsp)
        xor     %edi, %edi
        mov     $SYS_brk, %eax
        syscall
        mov     %rax, 24(%rsp)
        mov     $GREETING, %edx
        jmp     send

next_request:
        mov     $SYS_read, %eax
        mov     $CHANNEL, %edi
        mov     %rsp, %rsi
        mov     $REQUEST + CARGO, %edx
        syscall
        cmp     $REQUEST, %rax          /* 0 is end of file; anything less is no request */
        jl      finish

        mov     8(%rsp), %rax
        cmp     $BATCH, %rax
        je      batch
        cmp     $GROW, %rax
        je      grow

        mov     16(%rsp), %rdi
        mov     24(%rsp), %rsi
        mov     32(%rsp), %rdx
        mov     40(%rsp), %r10
        mov     48(%rsp), %r8
        mov     56(%rsp), %r9
        syscall

answer:
        mov     %rax, 8(%rsp)
        mov     $ANSWER, %edx
send:
        mov     $SYS_write, %eax
        mov     $CHANNEL, %edi
        mov     %rsp, %rsi
        syscall
        cmp     %rdx, %rax
        je      next_request

finish:
        xor     %edi, %edi
        mov     $SYS_exit_group, %eax
        syscall

/* One call for each map of the array; the errno of each, 0 for accepted, goes into one byte. */
batch:
        mov     16(%rsp), %r12          /* next map */
        mov     24(%rsp), %r13          /* how many are left */
        mov     32(%rsp), %r14          /* where the next errno goes */
        mov     $PR_SET_MM, %edi        /* a system call keeps rdi, rsi, r10 and r8 */
        mov     $PR_SET_MM_MAP, %esi
        mov     $MAP_SIZE, %r10d
        xor     %r8d, %r8d
next_map:
        test    %r13, %r13
        jz      batch_end
        mov     $SYS_prctl, %eax
        mov     %r12, %rdx
        syscall
        neg     %eax
        mov     %al, (%r14)
        add     $MAP_SIZE, %r12
        inc     %r14
        dec     %r13
        jmp     next_map
batch_end:
        xor     %eax, %eax
        jmp     answer

/* Move the end of the heap, wherever it is; brk() refuses by answering with the present end. */
grow:
        xor     %edi, %edi
        mov     $SYS_brk, %eax
        syscall
        mov     %rax, %r12
        mov     %rax, %rdi
        add     16(%rsp), %rdi
        mov     $SYS_brk, %eax
        syscall
        sub     %r12, %rax
        jmp     answer

name:
        .asciz  "specimen"
code_end:

/* ---- the data: file-backed memory, for experiments that point at it ------------------------ */
        .balign PAGE, 0
data:
        .asciz  "This text lies in the data of the specimen, behind which stands a file."
data_end:
