/* SPDX-License-Identifier: MIT */
/*
 * Where every vCPU begins, in 64-bit mode: RDI = its index, RSI = struct vmm_shared, RSP = its own stack.
 */
	.section .text.start, "ax"
	.globl _start
_start:
	xorl	%ebp, %ebp
	andq	$-16, %rsp
	call	guest_main
1:	cli
	hlt
	jmp	1b

/*
 * #GP, taken by a WRMSR in guest_write_msr_faulting: R8D = 1 tells it, and it goes on after the two bytes of WRMSR.
 * Not IRETQ: the privilege level and the flags stay what they are, and software-nested KVMs do not emulate it.
 * The frame (Intel SDM 3A 6.14.2): error code, RIP, CS, RFLAGS, RSP, SS.
 */
	.text
	.globl guest_general_protection
guest_general_protection:
	movl	$1, %r8d
	movq	8(%rsp), %r9
	addq	$2, %r9
	movq	32(%rsp), %rsp
	jmp	*%r9

	.section .note.GNU-stack, "", @progbits
