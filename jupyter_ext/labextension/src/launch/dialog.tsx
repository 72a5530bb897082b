import { Dialog, ReactWidget } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React, { useState } from 'react';
import { duration, imageName, mebibytes } from '../model/figures';
import * as words from '../words';
import type { Field, Value } from './parameters';

export type Choice = Record<string, Value | null>;

/** What the dialog asks; `value` is what was chosen. */
export class SandboxForm extends ReactWidget implements Dialog.IBodyWidget<Choice> {
  /**
   * @param problem - why the last choice was refused, for people; empty at first.
   * @param file - where policy stands; empty where it is the default.
   */
  constructor(
    private readonly _fields: readonly Field[],
    private readonly _choice: Choice,
    private readonly _problem: string,
    private readonly _file: string,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('hyper-Form');
  }

  getValue(): Choice {
    return this._choice;
  }

  protected override render(): JSX.Element {
    const trans = this._trans;
    return (
      <>
        <p>{trans.__('A new notebook, whose kernel runs in a virtual machine of its own.')}</p>
        {this._problem && (
          <p role="alert" className="hyper-Form-problem">
            {this._problem}
          </p>
        )}
        <div className="hyper-Form-fields">
          {this._fields.map(field => (
            <Chooser
              key={field.name}
              field={field}
              chosen={this._choice[field.name] ?? null}
              choose={value => (this._choice[field.name] = value)}
              trans={trans}
            />
          ))}
        </div>
        <p className="hyper-Form-policy">
          {this._file
            ? trans.__('What may be chosen is set in %1.', this._file)
            : trans.__('These are the limits of a host without a policy file.')}
        </p>
      </>
    );
  }
}

interface ChooserProps {
  field: Field;
  chosen: Value | null;
  choose: (value: Value | null) => void;
  trans: TranslationBundle;
}

function Chooser({ field, chosen, choose, trans }: ChooserProps): JSX.Element {
  const [value, setValue] = useState(chosen);
  const id = `hyper-form-${field.name}`;
  const about = [field.description, capWords(field, trans)].filter(Boolean).join(' ');
  return (
    <>
      <label htmlFor={id}>{field.title}</label>
      <select
        id={id}
        aria-describedby={`${id}-about`}
        value={value === null ? '' : String(value)}
        onChange={event => {
          const now = field.values.find(each => String(each) === event.target.value) ?? null;
          setValue(now);
          choose(now);
        }}
      >
        <option value="">{fallbackWords(field, trans)}</option>
        {field.values.map(each => (
          <option key={each} value={String(each)}>
            {valueWords(field.name, each, trans)}
          </option>
        ))}
      </select>
      <small id={`${id}-about`}>{about}</small>
    </>
  );
}

/** A value with its unit, which the end of the field's name tells. */
export function valueWords(name: string, value: Value, trans: TranslationBundle): string {
  if (typeof value === 'number') {
    return name.endsWith('_mib') ? mebibytes(value) : name.endsWith('_s') ? duration(value) : String(value);
  }
  return name === 'files' ? words.files(value, trans) : imageName(value);
}

function fallbackWords({ name, fallback }: Field, trans: TranslationBundle): string {
  if (fallback === undefined) {
    return trans.__('as usual');
  }
  return fallback === null ? trans.__('no limit') : trans.__('%1 (usual)', valueWords(name, fallback, trans));
}

function capWords({ name, cap }: Field, trans: TranslationBundle): string {
  return cap === null ? '' : trans.__('At most %1.', valueWords(name, cap, trans));
}
