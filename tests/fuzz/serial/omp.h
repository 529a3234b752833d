// SPDX-License-Identifier: Apache-2.0
#pragma once

// What core/parallel.h needs of OpenMP, for the one thread of a fuzzer: clang has no OpenMP header
// unless libomp is installed for the same version.
inline int omp_in_parallel() { return 0; }
inline int omp_get_max_threads() { return 1; }
inline void omp_set_num_threads(int) {}
