// Writes the manifest of what is published, dist/package.json: ours without what only this checkout needs.

import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'

const {
  private: _,
  scripts: __,
  devDependencies: ___,
  optionalDependencies: ____,
  exports: entries,
  ...manifest
} = JSON.parse(readFileSync('package.json', 'utf8'))

const built = (source: string): string => source.replace(/^\.\/src\//, './').replace(/\.ts$/, '.js')

writeFileSync(
  'dist/package.json',
  `${JSON.stringify(
    {
      ...manifest,
      exports: Object.fromEntries(Object.entries<string>(entries).map(([path, file]) => [path, built(file)])),
    },
    undefined,
    2,
  )}\n`,
)
for (const file of ['README.md', 'CHANGELOG.md', 'LICENSE']) copyFileSync(file, `dist/${file}`)
