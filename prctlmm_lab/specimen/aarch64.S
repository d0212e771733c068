/*
 * The specimen's whole program for 64-bit Arm, ELF headers included: the protocol of x86_64.S.
 *
 * Requests, answers, greeting and the two special numbers are described there; here is what this
 * machine has of its own:
 *
 *     the system call's number goes into x8, its arguments into x0 .. x5, its result comes in x0;
 *     every other register is kept by the kernel, so that a loop may hold its state in them
 *
 *     a page has 4, 16 or 64 KiB, as the kernel was built: the segments lie 64 KiB apart, in memory
 *     as in the file, so that one binary serves all three
 *
 * PIE=0 gives the textbook layout at 0x400000; PIE=1 gives a position-independent program.
 */
        .set    CHANNEL, 3
        .set    ALIGN, 0x10000          /* the largest page there is */
        .set    SYS_read, 63
        .set    SYS_write, 64
        .set    SYS_exit_group, 94
        .set    SYS_prctl, 167
        .set    SYS_brk, 214
        .set    PR_SET_MM, 35
        .set    PR_SET_MM_MAP, 14
        .set    MAP_SIZE, 104
        .set    PR_SET_NAME, 15
        .set    REQUEST, 64
        .set    CARGO, 128
        .set    SCRATCH, 0x10000
        .set    ANSWER, 16
        .set    GREETING, 32
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
        .8byte  0
        .2byte  TYPE
        .2byte  183                     /* EM_AARCH64 */
        .4byte  1
        .8byte  BASE + _start - file    /* e_entry */
        .8byte  headers - file          /* e_phoff */
        .8byte  0                       /* no sections */
        .4byte  0
        .2byte  64, 56, (headers_end - headers) / 56
        .2byte  64, 0, 0

/* ---- the program headers: what the kernel maps, and from it start_code .. end_data --------- */
        .macro  segment type, flags, first, last
        .4byte  \type, \flags
        .8byte  \first - file           /* p_offset */
        .8byte  BASE + \first - file    /* p_vaddr */
        .8byte  BASE + \first - file    /* p_paddr */
        .8byte  \last - \first          /* p_filesz */
        .8byte  \last - \first          /* p_memsz */
        .8byte  ALIGN
        .endm
headers:
        segment 1, 4, file, code        /* PT_LOAD  r--: these headers, up to the code */
        segment 1, 5, code, code_end    /* PT_LOAD  r-x: start_code, end_code */
        segment 1, 6, data, data_end    /* PT_LOAD  rw-: start_data, end_data */
        .4byte  0x6474e551, 6           /* PT_GNU_STACK rw-: a stack without x */
        .8byte  0, 0, 0, 0, 0, 16
headers_end:

/* ---- the code ------------------------------------------------------------------------------ */
        .balign ALIGN, 0
code:
        .globl  _start
_start:
        sub     sp, sp, #REQUEST + CARGO        /* the buffer, below argc and argv; sp is always */
                                                /* a multiple of 16 on this machine */
        mov     x0, #PR_SET_NAME
        adr     x1, name
        mov     x8, #SYS_prctl
        svc     #0

        sub     x1, sp, #SCRATCH        /* where the other side puts what calls read: resident */
        strb    wzr, [x1]               /* from now on, so that no first use shows in statm */

        str     xzr, [sp]
        mov     x0, sp
        str     x0, [sp, #8]
        adr     x0, _start
        str     x0, [sp, #16]
        mov     x0, #0
        mov     x8, #SYS_brk
        svc     #0
        str     x0, [sp, #24]
        mov     x2, #GREETING
        b       send

next_request:
        mov     x0, #CHANNEL
        mov     x1, sp
        mov     x2, #REQUEST + CARGO
        mov     x8, #SYS_read
        svc     #0
        cmp     x0, #REQUEST            /* 0 is end of file; anything less is no request */
        b.lt    finish

        ldr     x8, [sp, #8]
        cmn     x8, #1
        b.eq    batch
        cmn     x8, #2
        b.eq    grow

        ldp     x0, x1, [sp, #16]
        ldp     x2, x3, [sp, #32]
        ldp     x4, x5, [sp, #48]
        svc     #0

answer:
        str     x0, [sp, #8]
        mov     x2, #ANSWER
send:
        mov     x0, #CHANNEL
        mov     x1, sp
        mov     x8, #SYS_write
        svc     #0
        cmp     x0, x2
        b.eq    next_request

finish:
        mov     x0, #0
        mov     x8, #SYS_exit_group
        svc     #0

/* One call for each map of the array; the errno of each, 0 for accepted, goes into one byte. */
batch:
        ldp     x19, x20, [sp, #16]     /* next map, how many are left */
        ldr     x21, [sp, #32]          /* where the next errno goes */
        mov     x1, #PR_SET_MM_MAP
        mov     x3, #MAP_SIZE
        mov     x4, #0
        mov     x8, #SYS_prctl
next_map:
        cbz     x20, batch_end
        mov     x0, #PR_SET_MM
        mov     x2, x19
        svc     #0
        neg     w0, w0
        strb    w0, [x21], #1
        add     x19, x19, #MAP_SIZE
        sub     x20, x20, #1
        b       next_map
batch_end:
        mov     x0, #0
        b       answer

/* Move the end of the heap, wherever it is; brk() refuses by answering with the present end. */
grow:
        mov     x0, #0
        mov     x8, #SYS_brk
        svc     #0
        mov     x19, x0
        ldr     x1, [sp, #16]
        add     x0, x0, x1
        svc     #0
        sub     x0, x0, x19
        b       answer

name:
        .asciz  "specimen"
code_end:

/* ---- the data: file-backed memory, for experiments that point at it ------------------------ */
        .balign ALIGN, 0
data:
        .asciz  "This text lies in the data of the specimen, behind which stands a file."
data_end:
