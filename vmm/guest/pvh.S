/* SPDX-License-Identifier: MIT */
/*
 * The way in for a VMM that is not ours and boots a machine by the PVH protocol (QEMU's -kernel): 32-bit, flat, no paging, EBX = its
 * struct hvm_start_info. Makes what our VMM would have made (boot.c), fills struct vmm_shared (pvh.c), and wakes the other vCPUs, each
 * of which comes in real mode. All end in _start.
 */
#include "../shared.h"

#define PML4 VMM_BOOT_GPA
#define PDPT (VMM_BOOT_GPA + 0x1000)
#define PD (VMM_BOOT_GPA + 0x2000)

/* Intel SDM 3A 2.5, 4.5 */
#define PRESENT_WRITABLE 0x3
#define LARGE 0x80
#define LARGE_SIZE 0x200000
#define CR4_PAE 0x20
#define CR0_LONG 0x80010033 /* PG, WP, NE, ET, MP, PE */
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

#define NOTE_PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */

	.macro load_segments /* there is no stack yet */
	movl	$VMM_SEGMENT_DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	.endm

	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 8, NOTE_PHYS32_ENTRY
	.asciz "Xen"
	.quad pvh_start

	.section .text
	.code32
pvh_start:
	cld
	/* 4 GiB of identity, as boot.c's write_tables */
	movl	$PD, %edi
	movl	$(PRESENT_WRITABLE | LARGE), %eax
	movl	$(4 * 512), %ecx
1:	movl	%eax, (%edi)
	movl	$0, 4(%edi)
	addl	$8, %edi
	addl	$LARGE_SIZE, %eax
	loop	1b
	movl	$PDPT, %edi
	movl	$(PD + PRESENT_WRITABLE), %eax
	movl	$4, %ecx
1:	movl	%eax, (%edi)
	movl	$0, 4(%edi)
	addl	$8, %edi
	addl	$0x1000, %eax
	loop	1b
	movl	$(PDPT + PRESENT_WRITABLE), PML4
	movl	$0, PML4 + 4

	movl	$CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$PML4, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$EFER_LME, %eax
	wrmsr
	lgdt	table
	movl	$CR0_LONG, %eax
	movl	%eax, %cr0
	ljmp	$VMM_SEGMENT_CODE, $pvh_first

	.code64
pvh_first:
	load_segments
	movl	$(VMM_STACK_GPA + VMM_STACK_SIZE), %esp
	movl	%ebx, %edi
	call	pvh_main
	xorl	%edi, %edi
	jmp	enter

/* Where each further vCPU is when it is in 64-bit mode: they are woken one by one, so the next index is the APIC's. */
pvh_next:
	load_segments
	movl	$1, %edi
	lock xaddl %edi, pvh_woken(%rip)
	leal	1(%rdi), %eax
	imull	$VMM_STACK_SIZE, %eax, %eax
	leaq	VMM_STACK_GPA(%rax), %rsp
enter:
	movl	$VMM_SHARED_PVH_GPA, %esi
	jmp	_start

/* Copied to VMM_TRAMPOLINE_GPA. From real mode straight into 64-bit mode. */
	.globl pvh_trampoline, pvh_trampoline_end
	.code16
pvh_trampoline:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movl	$CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$PML4, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$EFER_LME, %eax
	wrmsr
	lgdtl	VMM_TRAMPOLINE_GPA + (trampoline_table - pvh_trampoline)
	movl	$CR0_LONG, %eax
	movl	%eax, %cr0
	ljmpl	$VMM_SEGMENT_CODE, $pvh_next
	.balign 4
trampoline_table:
	.word	descriptors_end - descriptors - 1
	.long	descriptors
pvh_trampoline_end:

	.section .data
	.balign 8
descriptors:
	.quad 0, VMM_DESCRIPTOR_CODE, VMM_DESCRIPTOR_DATA
descriptors_end:
table:
	.word	descriptors_end - descriptors - 1
	.long	descriptors
	.balign 4
	.globl pvh_woken
pvh_woken:
	.long 1

	.section .note.GNU-stack, "", @progbits
