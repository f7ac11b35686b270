# Run by CPack between the installation into its own folder and the making of the package: what Debian wants of a package and an
# installation by hand does not need.
cmake_minimum_required(VERSION 3.25)
set(root ${CPACK_TEMPORARY_DIRECTORY})
set(doc ${root}/usr/share/doc/cowblk)
file(MAKE_DIRECTORY ${root}/etc/cowblk ${doc})

file(READ ${CPACK_COWBLK_SOURCE}/LICENSE license)
string(REGEX REPLACE "^MIT License\n\n(Copyright[^\n]*)\n\n" "" license "${license}")
set(copyright "${CMAKE_MATCH_1}")
string(REGEX REPLACE "\n\n" "\n.\n" license "${license}")
string(STRIP "${license}" license)
string(REPLACE "\n" "\n " license "${license}")
string(REGEX REPLACE "^Copyright (\\([cC]\\) )?" "" copyright "${copyright}")
file(WRITE ${doc}/copyright "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: cowblk

Files: *
Copyright: ${copyright}
License: Expat

License: Expat
 ${license}
")
string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${doc}/changelog "cowblk (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium

  * This version of cowblk.

 -- ${CPACK_PACKAGE_CONTACT}  ${date}
")
file(GLOB pages ${root}/usr/share/man/man1/*.1)
execute_process(COMMAND gzip -9n ${doc}/changelog ${pages} COMMAND_ERROR_IS_FATAL ANY)
