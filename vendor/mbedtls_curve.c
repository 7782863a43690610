/* SPDX-License-Identifier: MIT */
/* mbedtls_curve.c - library/ecp.c of Mbed TLS, with a faster X25519.
 *
 * Of a TLS handshake's time two thirds were two multiplications on that curve, which every browser
 * prefers: 440 us each with Mbed TLS's numbers of any size. Its archive carries another way, the
 * verified code of Project Everest (3rdparty/everest), which needs 37 us; but its own switch for it
 * reaches only one of the two in TLS 1.3, and puts everest's headers into the public ones. So it is
 * put in here, at the one door through which all the library goes to multiply a point.
 */

/* What ecp.c calls by these names itself stays as it was: it is not part of a handshake. */
#define mbedtls_ecp_mul             bignum_ecp_mul
#define mbedtls_ecp_mul_restartable bignum_ecp_mul_restartable
#include "ecp.c"
#undef mbedtls_ecp_mul
#undef mbedtls_ecp_mul_restartable

#ifdef __SIZEOF_INT128__
#define MBEDTLS_HAVE_INT128
#pragma GCC push_options
#pragma GCC optimize("O3") /* half the time of O2 */
#include "Hacl_Curve25519.c"
#include "kremlib/FStar_UInt64_FStar_UInt32_FStar_UInt16_FStar_UInt8.c"
#pragma GCC pop_options

/* Multiplies on Curve25519 (RFC 7748 section 5), with the checks that ecp.c makes: of the scalar,
 * and for points of low order, whose product is nothing. */
static int curve25519_mul(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                          const mbedtls_ecp_point *P)
{
	unsigned char scalar[32], point[32], product[32], any = 0;
	int ret;
	MBEDTLS_MPI_CHK(mbedtls_ecp_check_privkey(grp, m));
	MBEDTLS_MPI_CHK(mbedtls_ecp_check_pubkey(grp, P));
	MBEDTLS_MPI_CHK(mbedtls_mpi_write_binary_le(m, scalar, sizeof scalar));
	MBEDTLS_MPI_CHK(mbedtls_mpi_write_binary_le(&P->X, point, sizeof point));
	Hacl_Curve25519_crypto_scalarmult(product, scalar, point);
	for (size_t i = 0; i < sizeof product; i++) any |= product[i];
	if (!any) {
		ret = MBEDTLS_ERR_ECP_INVALID_KEY;
		goto cleanup;
	}
	MBEDTLS_MPI_CHK(mbedtls_mpi_read_binary_le(&R->X, product, sizeof product));
	MBEDTLS_MPI_CHK(mbedtls_mpi_lset(&R->Z, 1));
	mbedtls_mpi_free(&R->Y);
cleanup:
	mbedtls_platform_zeroize(scalar, sizeof scalar);
	mbedtls_platform_zeroize(product, sizeof product);
	return ret;
}
#endif

int mbedtls_ecp_mul_restartable(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                                const mbedtls_ecp_point *P,
                                int (*f_rng)(void *, unsigned char *, size_t), void *p_rng,
                                mbedtls_ecp_restart_ctx *rs_ctx)
{
#ifdef __SIZEOF_INT128__
	if (grp->id == MBEDTLS_ECP_DP_CURVE25519 && !mbedtls_mpi_cmp_int(&P->Z, 1))
		return curve25519_mul(grp, R, m, P);
#endif
	return bignum_ecp_mul_restartable(grp, R, m, P, f_rng, p_rng, rs_ctx);
}

int mbedtls_ecp_mul(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                    const mbedtls_ecp_point *P, int (*f_rng)(void *, unsigned char *, size_t),
                    void *p_rng)
{
	return mbedtls_ecp_mul_restartable(grp, R, m, P, f_rng, p_rng, NULL);
}
