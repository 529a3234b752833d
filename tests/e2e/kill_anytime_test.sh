#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A few kills of the soak that kill_anytime.sh is with a hundred.
exec bash "$(dirname "$0")/kill_anytime.sh" "$1" 5
