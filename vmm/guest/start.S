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

/*
 * uint64_t guest_timer_wait(void), guest_timer_poll(void): 1 if an interrupt came. STI's shadow lets none in before HLT. The
 * interrupt, with frame RIP, CS, RFLAGS, RSP, SS, does not go back where it came from, but on behind HLT, with interrupts
 * off and the stack as it was: no IRETQ, as above.
 *
 * Who only looks lets them in by POPFQ, which has no shadow: KVM's emulator looks for an interrupt when IF becomes 1 (x86.c,
 * x86_emulate_instruction), and after STI that look falls into the shadow. Where everything is emulated (kvm-pvm) nothing looks
 * again before CLI, and an interrupt has waited for seconds.
 */
	.globl guest_timer_wait
guest_timer_wait:
	xorl	%eax, %eax
	sti
	hlt
	cli
	ret

	.globl guest_timer_poll
guest_timer_poll:
	xorl	%eax, %eax
	pushfq
	orl	$0x200, (%rsp)
	popfq
	nop
	nop
	cli
	ret

	.globl guest_timer_interrupt
guest_timer_interrupt:
	movq	24(%rsp), %rsp
	movl	$1, %eax
	ret

	.section .note.GNU-stack, "", @progbits
