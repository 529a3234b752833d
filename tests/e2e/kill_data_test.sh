#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A few rounds of kill_data.sh. Usage: kill_data_test.sh BUILD_FOLDER
exec bash "$(dirname "${BASH_SOURCE[0]}")/kill_data.sh" "$1" 3
