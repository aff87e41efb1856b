# SPDX-License-Identifier: MIT
# fail.sh - for the tests that are scripts, each of which ends with `exit $failed`.
failed=0

fail()
{
	echo "FAILED: $*"
	failed=1
}
