/*
 * The guest of the KVM probe: what a CPU does between reset and a 64-bit
 * kernel, in 4 KiB at the top of the address space.
 *
 * Real mode, protected mode, page tables, long mode; then it writes and sums
 * 64 KiB of memory and answers at port 0xf4 (QEMU's isa-debug-exit): 0x2a when
 * the sum is right, 0x01 when it is not.
 *
 * The bytes in ../probe.rs are made from this file; a test compares them:
 *   as --64 -o guest.o guest.S && ld -Ttext=0xfffff000 --oformat binary guest.o
 */
    .code16
    .globl _start
_start:
    cli
    lgdtl %cs:(gdtr - 0xffff0000)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x08, $protected
    .code32
protected:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov $0x1000, %edi
    mov $0x1000, %ecx
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x4003, 0x2018
    movl $0x83, 0x3000
    movl $0xffe00083, 0x4ff8
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $0x1000, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmpl $0x18, $long
    .code64
long:
    movabs $0x0123456789abcdef, %rax
    mov $0x100000, %edi
    mov $0x2000, %ecx
    rep stosq
    mov $0x100000, %esi
    mov $0x2000, %ecx
    xor %ebx, %ebx
1:  lodsq
    add %rax, %rbx
    dec %ecx
    jnz 1b
    movabs $0x68acf13579bde000, %rax
    mov $0x2a, %dl
    cmp %rax, %rbx
    je 2f
    mov $0x01, %dl
2:  mov %edx, %eax
    out %al, $0xf4
3:  hlt
    jmp 3b
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdtr:
    .word gdtr - gdt - 1
    .long gdt
    .org 0xff0
    .code16
    jmp _start
    .org 0x1000
