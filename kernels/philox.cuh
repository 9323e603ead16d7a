// Philox4x32-10: four random words from a 128-bit counter and a 64-bit key.
// Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).
#pragma once

struct PhiloxWords {
  unsigned word[4];
};

__device__ inline PhiloxWords philox(PhiloxWords counter, unsigned key0, unsigned key1) {
  for (int round = 0; round < 10; ++round) {
    const unsigned even_low = 0xD2511F53u * counter.word[0];
    const unsigned odd_low = 0xCD9E8D57u * counter.word[2];
    const unsigned even_high = __umulhi(0xD2511F53u, counter.word[0]);
    const unsigned odd_high = __umulhi(0xCD9E8D57u, counter.word[2]);
    counter = {
        {odd_high ^ counter.word[1] ^ key0, odd_low, even_high ^ counter.word[3] ^ key1, even_low}};
    key0 += 0x9E3779B9u;  // the golden ratio and sqrt(3) - 1, as fractions of 2^32
    key1 += 0xBB67AE85u;
  }
  return counter;
}
