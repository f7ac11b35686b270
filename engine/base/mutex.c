/* SPDX-License-Identifier: MIT */
#include "engine/base/mutex.h"

_Thread_local unsigned cow_mutex_held;
