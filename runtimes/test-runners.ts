// The test runners, each with the command that runs its tests of an application with sessions.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'

export type TestRunner = {
  readonly name: string
  readonly version: string
  /** The options that matter. */
  readonly how: string
  readonly command: readonly [program: string, ...args: string[]]
}

/** @param tools the folder of installed packages */
export const testRunners = (tools: string, node: string): readonly TestRunner[] => {
  const versionOf = (name: string): string =>
    JSON.parse(readFileSync(join(tools, name, 'package.json'), 'utf8')).version
  const vitest = (pool: string): TestRunner => ({
    name: 'Vitest',
    version: versionOf('vitest'),
    how: `--pool=${pool}`,
    command: [node, join(tools, 'vitest/vitest.mjs'), 'run', `--pool=${pool}`, 'tests/vitest.test.mjs'],
  })
  const jest = (how: string, nodeOptions: readonly string[]): TestRunner => ({
    name: 'Jest',
    version: versionOf('jest'),
    how,
    command: [
      node,
      ...nodeOptions,
      join(tools, 'jest/bin/jest.js'),
      '--rootDir=.',
      '--testMatch=**/tests/jest.test.mjs',
      '--testEnvironment=node',
    ],
  })
  return [
    {
      name: 'node:test',
      version: process.version,
      how: 'node --test',
      command: [node, '--test', 'tests/node.test.mjs'],
    },
    vitest('forks'),
    vitest('threads'),
    vitest('vmThreads'),
    jest('--experimental-vm-modules', ['--experimental-vm-modules']),
    {
      name: 'Bun',
      version: versionOf('bun'),
      how: 'bun test',
      command: [join(tools, '.bin/bun'), 'test', '--no-install', './tests/bun.test.mjs'],
    },
    {
      name: 'Deno',
      version: versionOf('deno'),
      how: 'deno test --no-check',
      command: [join(tools, '.bin/deno'), 'test', '-A', '--no-check', './tests/deno.test.mjs'],
    },
  ]
}
